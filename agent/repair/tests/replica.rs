//! Repair on real disk images: what a user would notice of plan, apply, check, undo, and of what is refused.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod guest;

use gantry_repair::{Consent, Error, Target, apply};
use guest::{Guest, KERNEL, ROOT_START, ROOT_UUID, SWAP_START, SWAP_UUID};

#[test]
fn a_replica_is_planned_applied_silent_and_undone() {
    let guest = Guest::new(|_| {});
    let plan = guest.plan().unwrap();
    assert!(guest.cat("/etc/fstab").contains("/dev/sda1"), "planning changes nothing");
    let report = guest.apply(&plan).unwrap();
    assert_eq!(report.originals, "/var/lib/gantry/session1");
    assert!(report.checks.iter().any(|c| c == "a second plan is empty"), "{report:?}");

    let fstab = guest.cat("/etc/fstab");
    assert!(
        fstab.contains(&format!("UUID={ROOT_UUID} / ext4"))
            && fstab.contains(&format!("UUID={SWAP_UUID} none swap"))
    );
    assert!(guest.cat("/boot/grub/grub.cfg").contains(&format!("root=UUID={ROOT_UUID}")));
    assert!(guest.cat("/etc/systemd/network/10-gantry-enp0s2.link").contains("Name=enp0s2"));
    assert_eq!(guest.cat("/var/lib/gantry/session1/report.json"), "{\"report\":1}");
    assert!(guest.cat("/var/lib/gantry/session1/manifest.json").contains("\"state\": \"done\""));
    assert!(guest.plan().unwrap().steps.is_empty());

    assert_eq!(gantry_repair::undo(&guest.opening()).unwrap(), "/var/lib/gantry/session1");
    assert!(guest.cat("/etc/fstab").contains("/dev/sda1 / ext4"));
    let again = guest.plan().unwrap();
    let summaries =
        |p: &gantry_repair::Plan| p.steps.iter().map(|s| s.proposed.edit.summary()).collect::<Vec<_>>();
    assert_eq!(summaries(&again), summaries(&plan), "all of it is to do again");
}

#[test]
fn the_guests_generator_sees_only_the_guest() {
    let guest = Guest::new(|_| {});
    std::fs::write("/outside", "").ok();
    let plan = guest.plan().unwrap();
    guest.apply(&plan).unwrap();
    std::fs::remove_file("/outside").ok();
    let manifest: serde_json::Value =
        serde_json::from_str(&guest.cat("/var/lib/gantry/session1/manifest.json")).unwrap();
    let words = manifest["output"].as_str().unwrap();
    let lines = |prefix: &str| {
        words.lines().filter_map(|l| l.strip_prefix(prefix)).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(lines("pid "), ["1"], "its own processes");
    assert!(lines("swap ").is_empty(), "not this machine's swap");
    assert_eq!(lines("sys "), ["/sys/*"], "no hardware");
    assert!(!words.contains("ESCAPED"));
    assert!(words.contains("proc is read-only"), "{words}");
    let blocks: Vec<String> = lines("dev /dev/").into_iter().filter(|d| d.starts_with("loop")).collect();
    assert_eq!(blocks.len(), 2, "its own two partitions: {words}");
    let mut uuids = lines("uuid /dev/disk/by-uuid/");
    uuids.sort();
    assert_eq!(uuids, [ROOT_UUID, SWAP_UUID]);
    let cards = lines("net ").into_iter().filter(|l| l.contains(':')).count();
    assert_eq!(cards, 1, "only lo: {words}");
    let effective = lines("CapEff:").first().map(|c| u64::from_str_radix(c.trim(), 16).unwrap()).unwrap();
    assert_eq!(
        effective & (1 << 21 | 1 << 27 | 1 << 16 | 1 << 12),
        0,
        "no admin, mknod, modules, network: {effective:x}"
    );
    assert_eq!(lines("NoNewPrivs:").iter().map(|l| l.trim()).collect::<Vec<_>>(), ["1"]);
}

#[test]
fn a_generator_that_fails_stops_repair_with_its_words() {
    let guest = Guest::new(|tree| std::fs::write(tree.join("etc/fail"), "").unwrap());
    let error = guest.apply(&guest.plan().unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Guest(_)) && text.contains("no space left") && text.contains("session1"),
        "{text}"
    );
    assert!(guest.cat("/var/lib/gantry/session1/manifest.json").contains("\"state\": \"applying\""));
}

#[test]
fn a_generator_that_forgets_a_driver_is_found_out() {
    let guest = Guest::new(|tree| {
        std::fs::write(
            tree.join("usr/share/next-image"),
            guest::cpio(&[("lib/ahci.ko", ""), ("lib/sd_mod.ko", "")]),
        )
        .unwrap();
    });
    let error = guest.apply(&guest.plan().unwrap()).unwrap_err();
    assert!(error.to_string().contains("the check failed"), "{error}");
}

#[test]
fn a_program_that_hangs_is_killed_with_all_it_started() {
    let guest = Guest::new(|tree| std::fs::write(tree.join("etc/hang"), "").unwrap());
    let begun = std::time::Instant::now();
    let outcome = gantry_repair::mounts::apart(|| {
        let replica = gantry_repair::replica::Replica::open(&gantry_repair::Opening {
            write: true,
            ..guest.opening()
        })?;
        let limit = std::time::Duration::from_secs(1);
        let sandbox =
            gantry_repair::isolate::Guest { root: replica.root.mounted_at(), devices: Vec::new(), limit };
        let outcome = sandbox.run("/usr/sbin/update-initramfs", &["-u", "-k", KERNEL]);
        replica.close_and_check()?;
        outcome
    });
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("did not end within 1 s") && text.contains("pid 1"), "{text}");
    assert!(begun.elapsed().as_secs() < 20);
}

#[test]
fn a_plan_for_what_changed_since_is_refused() {
    let guest = Guest::new(|_| {});
    let plan = guest.plan().unwrap();
    guest.apply(&plan).unwrap();
    let error = guest.apply(&plan).unwrap_err();
    assert!(error.needs_a_human() && error.to_string().contains("plan again"), "{error}");
}

#[test]
fn a_suspended_system_is_refused_until_its_memory_is_given_up() {
    let guest = Guest::new(|_| {});
    guest.poke(SWAP_START + 4086, b"S1SUSPEND\0");
    let error = guest.plan().unwrap_err();
    assert!(error.needs_a_human() && error.to_string().contains("--void-hibernation"), "{error}");
    assert_eq!(guest.peek(SWAP_START + 4086, 9), b"S1SUSPEND");

    let opening = gantry_repair::Opening { despite_hibernation: true, ..guest.opening() };
    let plan = gantry_repair::plan(&opening, &Target::default(), Consent { void_hibernation: true }).unwrap();
    assert!(!plan.steps[0].can_be_undone);
    let what = apply::Apply { plan: &plan, id: "s", keep: None, tell: &|_| {} };
    gantry_repair::apply_plan(&opening, &Target::default(), &what).unwrap();
    assert_eq!(guest.peek(SWAP_START + 4086, 10), b"SWAPSPACE2");
    assert!(
        guest.cat("/var/lib/gantry/s/manifest.json").contains("533153555350454e4400"),
        "the old sector is kept"
    );
    assert!(guest.plan().unwrap().steps.is_empty());
}

#[test]
fn a_damaged_filesystem_is_reported_and_left_alone() {
    let guest = Guest::new(|_| {});
    let image = format!("{}?offset={ROOT_START}", guest.image.display());
    guest::run("debugfs", &["-w", "-R", "clri /etc/network", &image]);
    let before = blake3::hash(&std::fs::read(&guest.image).unwrap());
    let error = guest.plan().unwrap_err();
    assert!(
        error.needs_a_human() && error.to_string().contains("partition 1 of disk 1 is damaged"),
        "{error}"
    );
    assert_eq!(before, blake3::hash(&std::fs::read(&guest.image).unwrap()));
}

#[test]
fn a_journal_left_by_a_hard_stop_is_replayed_first() {
    let guest = Guest::new(|_| {});
    // As after a power cut: the flag says the journal is to be replayed, and the journal is a real one.
    let incompat = guest.peek(ROOT_START + 1024 + 0x60, 4);
    guest.poke(ROOT_START + 1024 + 0x60, &[incompat[0] | 4, incompat[1], incompat[2], incompat[3]]);
    // Without a correct checksum the kernel would rightly refuse: let debugfs make it.
    let image = format!("{}?offset={ROOT_START}", guest.image.display());
    guest::run("debugfs", &["-w", "-R", "set_super_value mnt_count 1", &image]);
    assert!(!guest.plan().unwrap().steps.is_empty());
    assert_eq!(guest.peek(ROOT_START + 1024 + 0x60, 1)[0] & 4, 0);
}

#[test]
fn two_systems_need_a_choice_and_none_is_told() {
    let two = Guest::new(|_| {});
    let other = Guest::new(|_| {});
    let nodes = vec![two.image.clone(), other.image.clone()];
    let opening = gantry_repair::Opening { nodes, ..two.opening() };
    let plan = |opening: &gantry_repair::Opening| {
        gantry_repair::plan(opening, &Target::default(), Consent::default())
    };
    let error = plan(&opening).unwrap_err().to_string();
    assert!(error.contains("--root 1:1 or --root 2:1"), "{error}");

    let empty = tempfile::NamedTempFile::new().unwrap();
    empty.as_file().set_len(1 << 20).unwrap();
    let opening = gantry_repair::Opening { nodes: vec![empty.path().to_path_buf()], ..two.opening() };
    assert!(plan(&opening).unwrap_err().to_string().contains("no Linux system"));
}

#[test]
fn links_of_a_hostile_guest_lead_nowhere() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "/dev/sda1 / ext4 rw 0 1\n").unwrap();
    let path = secret.path().to_path_buf();
    let guest = Guest::new(|tree| {
        let fstab = tree.join("etc/default/grub");
        std::fs::remove_file(&fstab).unwrap();
        std::os::unix::fs::symlink(&path, &fstab).unwrap();
        std::fs::remove_dir(tree.join("var/lib")).unwrap();
        std::os::unix::fs::symlink("../../../../../../tmp", tree.join("var/lib")).unwrap();
    });
    guest.apply(&guest.plan().unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(secret.path()).unwrap(), "/dev/sda1 / ext4 rw 0 1\n");
    assert!(!std::path::Path::new("/tmp/gantry/session1").exists());
    assert!(guest.cat("/tmp/gantry/session1/report.json").contains("report"), "the guest's own /tmp");
}
