//! The NBD client against nbdkit: what works, what is refused, and what a server's death costs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gantry_disk::nbd::Address;
use gantry_disk::{
    BadSectors, Careful, DiskError, ErrorKind, Extent, Geometry, NbdDisk, ReadAt, WriteAt, extents,
};
use lab::{MIB, Random, Server, good, until};

/// Random writes, zeroes, flushes and reads; the disk must be what a row of bytes in memory is.
fn behaves_like_memory(address: &Address, random: &mut Random) {
    let disk = NbdDisk::open_target(address).unwrap();
    let mut model = vec![0; disk.size() as usize];
    for _ in 0..60 {
        let offset = random.below(disk.size());
        let most = (disk.size() - offset).min(if random.below(4) == 0 { 3 * MIB } else { 20_000 });
        let mut length = 1 + random.below(most);
        let mut offset = offset;
        if random.below(2) == 0 {
            (offset, length) = (offset / 4096 * 4096, length / 4096 * 4096);
        }
        let range = offset as usize..(offset + length) as usize;
        match random.below(4) {
            0 => {
                disk.zero_at(offset, length).unwrap();
                model[range].fill(0);
            }
            1 => {
                let mut back = vec![1; length as usize];
                disk.read_at(offset, &mut back).unwrap();
                assert!(back == model[range], "{length} bytes at {offset}");
            }
            _ => {
                let data = random.bytes(length);
                disk.write_at(offset, &data).unwrap();
                model[range].copy_from_slice(&data);
            }
        }
    }
    disk.flush().unwrap();
    drop(disk);
    let disk = NbdDisk::open_source(address).unwrap();
    let mut back = vec![1; model.len()];
    disk.read_at(0, &mut back).unwrap();
    assert!(back == model, "after a new connection");
    extents::walk(&disk, |extent| {
        let range = extent.offset as usize..extent.end() as usize;
        assert!(!extent.zero || model[range].iter().all(|byte| *byte == 0), "{extent:?}");
        Ok(())
    })
    .unwrap();
    let error = disk.read_at(disk.size() - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Range);
}

#[test]
fn every_kind_of_server_behaves_like_memory() {
    let policy = "--filter=blocksize-policy";
    let kinds: [&[&str]; 8] = [
        &["memory", "9M"],
        &["--no-sr", "memory", "9M"],
        &["--filter=nozero", "memory", "9M"],
        &["--filter=noextents", "memory", "9M"],
        &["--filter=multi-conn", "memory", "9M", "multi-conn-mode=disable"],
        &[policy, "memory", "9M", "blocksize-minimum=4096", "blocksize-error-policy=error"],
        &[policy, "memory", "9M", "blocksize-maximum=65536", "blocksize-error-policy=error"],
        &["--filter=nozero", "memory", "9M", "zeromode=notrim"],
    ];
    let mut random = Random::new();
    for kind in kinds {
        println!("{kind:?}");
        let folder = tempfile::tempdir().unwrap();
        let server = Server::nbdkit(folder.path(), kind);
        behaves_like_memory(&server.address(), &mut random);
    }
}

#[test]
fn over_tcp_by_name_and_by_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let mut server = Command::new("nbdkit")
        .args(["--foreground", "--ipaddr", "127.0.0.1", "--port", &free, "--pidfile"])
        .arg(&pid)
        .args(["pattern", "8M"])
        .spawn()
        .unwrap();
    until("nbdkit listens", || pid.exists());
    for host in ["127.0.0.1", "localhost"] {
        let disk = NbdDisk::open_source(&format!("nbd://{host}:{free}/").parse().unwrap()).unwrap();
        let mut bytes = [0; 16];
        disk.read_at(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 8], "the pattern is the offset");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let error = NbdDisk::open_source(&format!("nbd://127.0.0.1:{free}/").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Io);
}

/// Several threads read at once; how many connections there were, nbdkit's log says.
fn connections(filter: &[&str], parameters: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let log_to = format!("logfile={}", log.display());
    let own = ["--filter=delay", "memory", "8M", "rdelay=50ms", &log_to];
    let server = Server::nbdkit(folder.path(), &[&["--filter=log"], filter, &own, parameters].concat());
    let disk = NbdDisk::open_source(&server.address()).unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let disk = &disk;
            scope.spawn(move || disk.read_at(i * MIB, &mut vec![0; MIB as usize]).unwrap());
        }
    });
    fs::read_to_string(log).unwrap().matches(" Connect ").count()
}

#[test]
fn there_are_several_connections_only_where_the_server_lets_them_count_as_one() {
    assert!(connections(&[], &[]) > 1, "nbdkit memory says CAN_MULTI_CONN");
    assert_eq!(connections(&["--filter=multi-conn"], &["multi-conn-mode=disable"]), 1);
}

#[test]
fn zeroes_are_known_and_holes_alone_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let extents_of = |list: &str| {
        let file = folder.path().join("list");
        fs::write(&file, list).unwrap();
        let list = format!("extentlist={}", file.display());
        let server = Server::nbdkit(folder.path(), &["--filter=extentlist", "memory", "5368709120", &list]);
        let disk = NbdDisk::open_source(&server.address()).unwrap();
        let mut found = Vec::new();
        extents::walk(&disk, |extent| {
            extents::append(&mut found, extent);
            Ok(())
        })
        .unwrap();
        found
    };
    let extent = |offset, length, zero| Extent { offset, length, zero };
    const G: u64 = 1 << 30;
    assert_eq!(
        extents_of("0 1M\n1M 3G hole,zero\n"),
        [extent(0, MIB, false), extent(MIB, 5 * G - MIB, true)],
        "what the list leaves out is hole,zero"
    );
    assert_eq!(extents_of("0 2G zero\n2G 3G hole\n"), [extent(0, 2 * G, true), extent(2 * G, 3 * G, false)]);
}

#[test]
fn a_read_error_names_export_and_byte_and_counts_as_a_bad_sector() {
    let folder = tempfile::tempdir().unwrap();
    let pread =
        "pread=if [ $4 -le 3000000 ] && [ 3000000 -lt $(($4+$3)) ]; then echo EIO bad spot >&2; exit 1; fi
        dd if=/dev/zero count=$3 iflag=count_bytes status=none";
    for structured in [&[][..], &["--no-sr"]] {
        let eval = ["eval", "get_size=echo 8M", pread];
        let server = Server::nbdkit(folder.path(), &[structured, &eval].concat());
        let disk = Arc::new(NbdDisk::open_source(&server.address()).unwrap());
        disk.read_at(0, &mut vec![0; 2 << 20]).unwrap();
        let mut buffer = vec![0; 2 << 20];
        let error = disk.read_at(2 * MIB, &mut buffer).unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::Io, Some(2 * MIB)), "{error}");
        assert!(error.to_string().contains("nbd+unix:///?socket="), "{error}");

        let error = Careful::new(disk.clone(), BadSectors::Stop).read_at(2 * MIB, &mut buffer).unwrap_err();
        assert_eq!(error.offset, Some(3_000_000 / 512 * 512), "{error}");
        let careful = Careful::new(disk, BadSectors::Zero);
        careful.read_at(2 * MIB, &mut buffer).unwrap();
        assert_eq!(careful.given_up().len(), 1);
    }
}

#[test]
fn a_refused_write_or_flush_is_an_error_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let eval = [
        "eval",
        "get_size=echo 8M",
        "pread=dd if=/dev/zero count=$3 iflag=count_bytes status=none",
        "pwrite=echo ENOSPC the pool is full >&2; exit 1",
        "can_flush=exit 0",
        "flush=echo EIO >&2; exit 1",
    ];
    let server = Server::nbdkit(folder.path(), &eval);
    let disk = NbdDisk::open_target(&server.address()).unwrap();
    let error = disk.write_at(MIB, &[1; 512]).unwrap_err();
    assert_eq!((error.kind, error.offset), (ErrorKind::Io, Some(MIB)));
    let code = |error: &DiskError| error.source.as_ref().and_then(std::io::Error::raw_os_error);
    assert_eq!(code(&error), Some(28), "no space left: {error:?}");
    assert_eq!(code(&disk.flush().unwrap_err()), Some(5));
    disk.read_at(0, &mut [0; 512]).unwrap();
}

#[test]
fn what_cannot_be_a_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = "pread=dd if=/dev/zero count=$3 iflag=count_bytes status=none";
    let cases: [(&[&str], &str); 4] = [
        (&["--readonly", "memory", "8M"], "for reading only"),
        (&["eval", "get_size=echo 8M", read, "pwrite=cat >/dev/null"], "cannot flush"),
        (&["memory", "1000001"], "no multiple of 512"),
        (&["--filter=exportname", "memory", "8M", "exportname-strict=true", "exportname=other"], "export"),
    ];
    for (arguments, part) in cases {
        let server = Server::nbdkit(folder.path(), arguments);
        let error = NbdDisk::open_target(&server.address()).unwrap_err();
        let text = format!("{error} {:?}", error.source);
        assert_eq!(error.kind, ErrorKind::Unsuitable, "{text}");
        assert!(text.contains(part), "{text}");
    }
}

/// An nbdkit that does not come back from a write or a flush while it lives; its log says what it was asked for.
fn stuck(folder: &Path, verb: &str) -> Server {
    let log_to = format!("logfile={}", folder.join("log").display());
    let hang = |of: &str| match of == verb {
        true => format!("{of}=cat >/dev/null; while kill -0 $PPID; do sleep 0.05; done"),
        false => format!("{of}=cat >/dev/null"),
    };
    let pread = "pread=dd if=/dev/zero count=$3 iflag=count_bytes status=none";
    let (pwrite, flush) = (hang("pwrite"), hang("flush"));
    let size = "get_size=echo 8M";
    let calls = ["--filter=log", "eval", size, pread, &pwrite, "can_flush=exit 0", &flush, &log_to];
    Server::nbdkit(folder, &calls)
}

#[test]
fn a_server_that_dies_in_a_write_or_flush_voids_the_end() {
    for (verb, logged) in [("pwrite", " Write "), ("flush", " Flush ")] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = stuck(folder.path(), verb);
        let disk = NbdDisk::open_target(&server.address()).unwrap();
        let outcome = std::thread::scope(|scope| {
            let work = scope.spawn(|| match verb {
                "pwrite" => disk.write_at(MIB, &[7; 4096]),
                _ => disk.write_at(MIB, &[7; 4096]).and_then(|()| disk.flush()),
            });
            let log = folder.path().join("log");
            until("the request arrives", || fs::read_to_string(&log).is_ok_and(|text| text.contains(logged)));
            server.kill();
            work.join().unwrap()
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Io, "{error}");
        // A server at the same place, as if nothing had been: nothing is taken up again.
        let _again = Server::nbdkit(folder.path(), &["memory", "8M"]);
        for outcome in [disk.write_at(0, &[1; 512]), disk.flush(), disk.read_at(0, &mut [0; 512])] {
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("nothing since the last good flush counts"), "{error}");
        }
    }
}

#[test]
fn a_reader_dials_again_but_only_to_the_same_export() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::nbdkit(folder.path(), &["pattern", "8M"]);
    let disk = NbdDisk::open_source(&server.address()).unwrap();
    let mut bytes = [0; 8];
    disk.read_at(0, &mut bytes).unwrap();
    server.kill();
    let mut server = Server::nbdkit(folder.path(), &["pattern", "8M"]);
    disk.read_at(8, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 8]);
    server.kill();
    let mut server = Server::nbdkit(folder.path(), &["pattern", "16M"]);
    let error = disk.read_at(8, &mut bytes).unwrap_err();
    assert!(error.to_string().contains("another export"), "{error}");
    server.kill();
    let error = disk.read_at(8, &mut bytes).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Io, "in the end it gives up");
}

/// Makes an authority, and a key and certificate for `name`, as nbdkit wants them in one folder.
fn authority(folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    let at = |file: &str| folder.join(file).display().to_string();
    let (ca_key, ca, request) = (at("ca-key.pem"), at("ca-cert.pem"), at("request.pem"));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut make =
        vec!["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca];
    make.extend(key);
    good("openssl", &make);
    for (who, names) in
        [("server", format!("subjectAltName=DNS:{name}")), ("client", "subjectAltName=DNS:c".into())]
    {
        let (own_key, own) = (at(&format!("{who}-key.pem")), at(&format!("{who}-cert.pem")));
        let mut make =
            vec!["req", "-subj", "/CN=x", "-addext", &names, "-keyout", &own_key, "-out", &request];
        make.extend(key);
        good("openssl", &make);
        let sign = ["x509", "-req", "-days", "2", "-copy_extensions", "copyall", "-in", &request, "-CA", &ca];
        good("openssl", &[&sign[..], &["-CAkey", &ca_key, "-CAcreateserial", "-out", &own]].concat());
    }
}

#[test]
fn tls_is_spoken_only_with_the_right_server() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    authority(&at("good"), "localhost");
    authority(&at("elsewhere"), "elsewhere.example");
    let serve = |certificates: &str| {
        let certificates = format!("--tls-certificates={}", at(certificates).display());
        Server::nbdkit(folder.path(), &["--tls=require", &certificates, "--tls-verify-peer", "memory", "9M"])
    };
    let with = |server: &Server, certificates: &str| -> Address {
        let parameter = format!("&tls-certificates={}", at(certificates).display());
        server.uri("nbds+unix", &parameter).parse().unwrap()
    };
    let refused = |address: &Address, part: &str| {
        let error = NbdDisk::open_source(address).unwrap_err();
        let text = format!("{error} {:?}", error.source);
        assert!(text.contains(part), "{text}");
    };
    let server = serve("good");
    behaves_like_memory(&with(&server, "good"), &mut Random::new());
    refused(&with(&server, "elsewhere"), "certificate");
    refused(&server.address(), "wants TLS");
    refused(&server.uri("nbds+unix", "").parse().unwrap(), "certificate");
    refused(&with(&server, "no such folder"), "no such folder/ca-cert.pem");
    drop(server);
    let server = serve("elsewhere");
    refused(&with(&server, "elsewhere"), "certificate");
    drop(server);
    let server = Server::nbdkit(folder.path(), &["memory", "9M"]);
    refused(&with(&server, "good"), "does not speak TLS");
}
