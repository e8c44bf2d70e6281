//! Disk ends that are not disks: image formats and NBD servers, and our own export, judged by others' tools.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use scratch::{MIB, Nbdkit, Running, Scratch, gantry, same, text};

/// Runs another's tool, which must succeed.
fn good(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed (scripts/setup): {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
    text(&output)
}

fn name(format: &str, path: &Path) -> String {
    format!("{format}:{}", path.display())
}

fn ok(arguments: &[&str]) -> String {
    let output = gantry(arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn refused(arguments: &[&str], part: &str) {
    let output = gantry(arguments, &[]);
    assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", text(&output));
    assert!(text(&output).contains(part), "{arguments:?}: {}", text(&output));
}

#[test]
fn a_disk_goes_into_every_format_and_back() {
    let scratch = Scratch::new();
    let source = scratch.source(8 * MIB, 21);
    let from = source.display().to_string();
    for format in ["qcow2", "vmdk", "vhdx", "vdi"] {
        let (image, back) = (scratch.path(&format!("new.{format}")), scratch.path(&format!("{format}.raw")));
        let to = name(format, &image);
        ok(&["copy", &from, &to]);
        let compared =
            good("qemu-img", &["compare", "-f", "raw", "-F", format, &from, image.to_str().unwrap()]);
        assert!(compared.contains("identical"), "{format}: {compared}");
        ok(&["verify", &from, &to]);
        let raw = name("raw", &back);
        ok(&["copy", &to, &raw]);
        assert!(same(&source, &back), "{format}");

        refused(&["copy", &from, &to], "data at byte");
        let mut other = fs::read(&source).unwrap();
        other[3 * MIB] ^= 1;
        let changed = scratch.path("changed");
        fs::write(&changed, other).unwrap();
        ok(&["copy", "--erase", &to, changed.to_str().unwrap(), &to]);
        assert_eq!(gantry(&["verify", &from, &to], &[]).status.code(), Some(4), "{format}");
    }
}

#[test]
fn what_an_image_carries_is_shown_before_it_may_be_erased() {
    let scratch = Scratch::new();
    let (source, old) = (scratch.source(20 * MIB, 22), scratch.old_disk(20 * MIB));
    let image = scratch.path("old");
    good(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", old.to_str().unwrap(), image.to_str().unwrap()],
    );
    let (from, to) = (source.display().to_string(), name("qcow2", &image));
    for part in ["payroll", "salaries", "--erase"] {
        refused(&["copy", &from, &to], part);
    }
    refused(&["receive", "--listen", "127.0.0.1:0", &to], "salaries");
    ok(&["copy", "--erase", &image.display().to_string(), &from, &to]);
}

#[test]
fn formats_are_said_and_foreign_files_refused() {
    let scratch = Scratch::new();
    let source = scratch.source(2 * MIB, 23).display().to_string();
    let base = scratch.path("base.qcow2").display().to_string();
    good("qemu-img", &["create", "-q", "-f", "qcow2", &base, "2M"]);
    refused(&["copy", &base, &scratch.path("x").display().to_string()], &format!("qcow2:{base}"));
    refused(&["copy", &source, &scratch.path("new.vmdk").display().to_string()], "say what it is");
    assert!(!scratch.path("new.vmdk").exists());
    let overlay = scratch.path("overlay").display().to_string();
    good("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &overlay]);
    let overlay = format!("qcow2:{overlay}");
    refused(&["copy", &overlay, &scratch.path("x").display().to_string()], "backing file");
    refused(&["export", &overlay], "backing file");
    refused(&["copy", &source, &format!("raw:{source}")], "the same thing");

    let output = Command::new(env!("CARGO_BIN_EXE_gantry"))
        .args(["verify", &format!("qcow2:{base}"), &source])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(text(&output).contains("qemu-utils"), "{}", text(&output));
}

#[test]
fn a_disk_goes_to_an_nbd_server_and_back() {
    let scratch = Scratch::new();
    let source = scratch.source(20 * MIB, 24);
    let from = source.display().to_string();
    for filter in ["nozero", "noextents"] {
        let server = Nbdkit::start(&scratch, &[&format!("--filter={filter}"), "memory", "20M"]);
        ok(&["copy", &from, &server.uri()]);
        refused(&["copy", &from, &server.uri()], "--erase");
        ok(&["verify", &from, &server.uri()]);
        let back = scratch.path(filter);
        ok(&["copy", &server.uri(), &back.display().to_string()]);
        assert!(same(&source, &back));
        ok(&["copy", "--erase", &server.uri(), &from, &server.uri()]);
        let there = scratch.path("there").display().to_string();
        good("nbdcopy", &[&server.uri(), &there]);
        ok(&["verify", &there, &server.uri()]);
    }
}

#[test]
fn bad_sectors_behind_a_server_are_named_and_may_be_zeroed() {
    let scratch = Scratch::new();
    let pread = "pread=if [ $4 -le 3000000 ] && [ 3000000 -lt $(($4+$3)) ]; then echo EIO >&2; exit 1; fi
        head -c $3 /dev/zero | tr '\\0' x";
    let server = Nbdkit::start(&scratch, &["eval", "get_size=echo 8M", pread]);
    let to = scratch.path("to").display().to_string();
    refused(&["copy", &server.uri(), &to], &format!("at byte {}", 3_000_000 / 512 * 512));
    let said = ok(&["copy", "--erase", &to, "--bad-sectors", "zero", &server.uri(), &to]);
    assert!(said.contains("512 bytes in 1 places could not be read"), "{said}");
}

/// nbdkit's error filter fails what the target is asked for: the sender hears why, and when it ends the machine crosses.
#[test]
fn a_server_that_fails_for_a_while_is_named_and_waited_for() {
    for (what, errno, words) in
        [("pwrite", "ENOSPC", "No space left"), ("pread", "EIO", "Input/output error")]
    {
        let scratch = Scratch::new();
        let source = scratch.source(12 * MIB, 27);
        let (target, trigger) = (scratch.path("target"), scratch.path("trigger"));
        fs::write(&target, vec![0; 12 * MIB]).unwrap();
        let [error, rate] = [format!("error-{what}={errno}"), format!("error-{what}-rate=100%")];
        let file = format!("error-{what}-file={}", trigger.display());
        let server = Nbdkit::start(
            &scratch,
            &["--filter=error", "file", target.to_str().unwrap(), &error, &rate, &file],
        );
        let code = scratch.path("code").display().to_string();
        let mut receiver =
            Running::start(&["receive", "--listen", "127.0.0.1:0", "--code-file", &code, &server.uri()], &[]);
        let line = receiver.wait_for("listening on");
        let address = format!("127.0.0.1:{}", line.rsplit(':').next().unwrap());
        fs::write(&trigger, "").unwrap();
        let mut sender = Running::start(&["send", &address, "--code-file", &code], &[&source]);
        let said = sender.wait_for("no link");
        assert!(said.contains(words) && said.contains("trying again"), "{said}");
        fs::remove_file(&trigger).unwrap();
        assert_eq!(sender.child.wait().unwrap().code(), Some(0));
        assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
        assert!(same(&source, &target), "{what}");
    }
}

#[test]
fn a_machine_crosses_into_a_qcow2_image() {
    let scratch = Scratch::new();
    let source = scratch.source(20 * MIB, 25);
    let image = scratch.path("image");
    good("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "20M"]);
    let (to, code) = (name("qcow2", &image), scratch.path("code").display().to_string());
    let mut receiver =
        Running::start(&["receive", "--listen", "127.0.0.1:0", "--code-file", &code, &to], &[]);
    let line = receiver.wait_for("listening on");
    let address = format!("127.0.0.1:{}", line.rsplit(':').next().unwrap());
    ok(&["send", &address, "--code-file", &code, &source.display().to_string()]);
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    ok(&["verify", &source.display().to_string(), &to]);
}

/// Our export on a socket.
fn export(scratch: &Scratch, disks: &[&str]) -> (Running, String) {
    let socket = scratch.path("export.sock").display().to_string();
    let running = Running::start(&[&["export", "--socket", &socket], disks].concat(), &[]);
    running.wait_for("listening on");
    (running, format!("nbd+unix:///?socket={socket}"))
}

#[test]
fn others_read_our_export() {
    let scratch = Scratch::new();
    let bytes = fs::read(scratch.source(9 * MIB, 26)).unwrap();
    let disk = scratch.path("disk");
    let sparse = fs::File::create(&disk).unwrap();
    sparse.set_len(64 * MIB as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes, 8 * MIB as u64).unwrap();
    let (_running, uri) = export(&scratch, &[disk.to_str().unwrap()]);
    let path = |name: &str| scratch.path(name).display().to_string();

    let told = good("nbdinfo", &["--json", &uri]);
    for part in
        ["\"is_read_only\": true", "\"can_multi_conn\": true", "base:allocation", "\"export-size\": 67108864"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let map = good("nbdinfo", &["--map", &uri]);
    let zero = map.lines().filter(|line| line.contains("hole,zero")).count();
    assert!(zero >= 2 && map.lines().any(|line| line.trim_start().starts_with("8388608")), "{map}");
    assert!(good("nbdinfo", &["--list", &uri]).contains("export=\"disk\""));
    good("nbdinfo", &["--is", "read-only", &uri]);

    good("nbdcopy", &[&uri, &path("nbdcopy")]);
    good("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &path("convert")]);
    for copy in ["nbdcopy", "convert"] {
        assert!(same(&disk, &scratch.path(copy)), "{copy}");
    }
    let named = uri.replace("///", "///disk");
    assert!(
        good("qemu-img", &["compare", "-f", "raw", "-F", "raw", &named, &path("convert")])
            .contains("identical")
    );
    ok(&["verify", &uri, &path("convert")]);
    let write = Command::new("nbdcopy").args([&path("convert"), &uri]).output().unwrap();
    assert!(!write.status.success(), "nobody writes to it");
    refused(&["copy", "--erase", &uri, &path("convert"), &uri], "for reading only");
    let unknown = Command::new("nbdinfo").arg(uri.replace("///", "///other")).output().unwrap();
    assert!(!unknown.status.success());
}

#[test]
fn an_image_is_exported_as_the_disk_in_it() {
    let scratch = Scratch::new();
    let source = scratch.source(20 * MIB, 27).display().to_string();
    let image = scratch.path("image");
    good("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &source, image.to_str().unwrap()]);
    let (_running, uri) = export(&scratch, &[&source, &name("qcow2", &image)]);
    let named = uri.replace("///", "///image");
    good("nbdcopy", &[&named, &scratch.path("back").display().to_string()]);
    assert!(same(&scratch.path("source"), &scratch.path("back")));
}

#[test]
fn an_export_to_a_network_must_be_wanted() {
    let scratch = Scratch::new();
    let source = scratch.source(MIB, 28).display().to_string();
    refused(&["export", "--listen", "0.0.0.0:0", &source], "--plain-network");
    let running = Running::start(&["export", "--listen", "127.0.0.1:0", &source], &[]);
    let line = running.wait_for("listening on");
    assert!(good("nbdinfo", &["--size", line.rsplit(' ').next().unwrap()]).contains("1048576"));
    refused(&["export", &source, &format!("raw:{source}")], "another disk is exported as");
}

/// What clients with bad manners meet: an end, while others are served.
#[test]
fn hostile_clients_harm_only_themselves() {
    let scratch = Scratch::new();
    let source = scratch.source(9 * MIB, 29).display().to_string();
    let (_running, uri) = export(&scratch, &[&source]);
    let socket = scratch.path("export.sock");
    let option =
        |number: u32, length: u32| [&b"IHAVEOPT"[..], &number.to_be_bytes(), &length.to_be_bytes()].concat();
    let request = |command: u16, length: u32| {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0; 2], &command.to_be_bytes(), &[1; 8], &[0; 8]];
        [&head.concat()[..], &length.to_be_bytes()].concat()
    };
    // NBD_OPT_GO for the default export, then the request.
    let go = |then: Vec<u8>| [&3_u32.to_be_bytes()[..], &option(7, 6), &[0; 6], &then].concat();
    let good_flags = 3_u32.to_be_bytes().to_vec();
    let ends: Vec<Vec<u8>> = vec![
        vec![0xff; 4],
        [&good_flags[..], &[0x55; 16]].concat(),
        [&good_flags[..], &option(7, u32::MAX)].concat(),
        [&good_flags[..], &option(1, 4), b"none"].concat(),
        [&good_flags[..], &option(99, 0).repeat(100)].concat(),
        go(vec![0x55; 28]),
        go(request(1, u32::MAX)),
    ];
    for (i, words) in ends.iter().enumerate() {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may hang up before it has heard all.
        let _ = client.write_all(words);
        let mut said = Vec::new();
        let end = client.read_to_end(&mut said);
        let hung_up = end.as_ref().map_err(std::io::Error::kind).err();
        assert!(end.is_ok() || hung_up == Some(std::io::ErrorKind::ConnectionReset), "{i}: {end:?}");
    }
    // Requests that are refused, each with its error; then the client is still served.
    for (what, command, length, error) in [
        ("beyond", 0, 20 << 20, 22),
        ("nothing", 0, 0, 22),
        ("too long", 0, 33 << 20, 22),
        ("unknown", 77, 1, 22),
        ("extents unasked", 7, 512, 22),
        ("trim", 4, 512, 1),
        ("zero", 6, 512, 1),
    ] {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.write_all(&go([request(command, length), request(2, 0)].concat())).unwrap();
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        let reply = &said[said.len() - 16..];
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes(), "{what}");
        assert_eq!(reply[4..8], u32::to_be_bytes(error), "{what}");
    }
    // A house full of clients that say nothing: the kernel's queue takes a few more, and those who work are served.
    let silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    good("nbdcopy", &[&uri, &scratch.path("copy").display().to_string()]);
    assert!(same(&scratch.path("source"), &scratch.path("copy")));
    drop(silent);
}
