//! A disk crosses the loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::time::Duration;

use gantry_disk::BadSectors;
use gantry_disk::label::{Label, parse};
use gantry_replicate::Event;
use gantry_replicate::kept::{End, Kept};
use gantry_wire::Code;
use lab::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_arrives_bit_for_bit() {
    for (source_size, target_size) in
        [(37 * MIB + 512 * 7, 37 * MIB + 512 * 7), (20 * MIB, 29 * MIB), (MIB, MIB)]
    {
        let images = Images::new(source_size, target_size, 1);
        let receiver = start_receiver(target(&images.target), anywhere()).await;
        let (sender, _) = start_sender(source(&images.source), receiver.address, code());
        let sent = sender.await.unwrap().unwrap();
        let kept = receiver.task.await.unwrap().unwrap();
        images.assert_equal();
        assert_eq!(sent.kept, kept, "both ends keep the same report");
        assert_both_signed(&kept);
        assert_eq!(kept.report.disks[0].root.len(), 64);
        assert_eq!((kept.report.disks[0].rewritten_chunks, sent.resent_chunks), (0, 0));
    }
}

/// As anybody sees it who is given the file.
fn assert_both_signed(kept: &Kept) {
    let read = Kept::parse(&serde_json::to_vec_pretty(kept).unwrap()).unwrap();
    for end in [End::Source, End::Target] {
        read.signature(end).unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_on_the_medium_is_found_and_rewritten() {
    let images = Images::new(32 * MIB, 32 * MIB, 2);
    let path = images.target.clone();
    // The receiver tells that the full pass is done before it tells the sender: nothing has been read back yet.
    let spoil = move |event: &Event| {
        if matches!(event, Event::PassDone { phase: "full", .. }) {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 29 * MIB + 77).unwrap();
            file.write_all_at(&[byte[0] ^ 4], 29 * MIB + 77).unwrap();
        }
    };
    let valid = Duration::from_secs(600);
    let receiver = start_receiver_with(target(&images.target), anywhere(), valid, Log::with(spoil)).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    sender.await.unwrap().unwrap();
    let kept = receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    assert_eq!(kept.report.disks[0].rewritten_chunks, 1, "exactly the spoilt chunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_is_refused_and_too_many_void_it() {
    let images = Images::new(8 * MIB, 8 * MIB, 3);
    let before = images.contents();
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    for left in (0..5).rev() {
        let wrong = Code::from_random([left; 10]);
        let (sender, _) = start_sender(source(&images.source), receiver.address, wrong);
        let error = format!("{:#}", sender.await.unwrap().unwrap_err());
        let (words, remedy) = match left {
            0 => ("(no try left)", "start receive again"),
            1 => ("(1 try left)", "start send again with the code that it shows"),
            _ => (&*format!("({left} tries left)"), "start send again with the code that it shows"),
        };
        assert!(error.contains(&format!("wrong pairing code {words}")), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
    let error = format!("{:#}", receiver.task.await.unwrap().unwrap_err());
    assert!(error.contains("this code is void"), "{error}");
    assert!(images.contents() == before, "both ends are untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_code_is_refused() {
    let images = Images::new(8 * MIB, 8 * MIB, 4);
    let before = images.contents();
    let receiver = start_receiver_with(target(&images.target), anywhere(), Duration::ZERO, Log::new()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let error = format!("{:#}", sender.await.unwrap().unwrap_err());
    assert!(error.contains("the pairing code has expired"), "{error}");
    let error = format!("{:#}", receiver.task.await.unwrap().unwrap_err());
    assert!(error.contains("the pairing code has expired"), "{error}");
    assert!(images.contents() == before, "both ends are untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_small_is_refused_untouched() {
    let images = Images::new(8 * MIB, 7 * MIB, 5);
    let before = images.contents();
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let error = format!("{:#}", sender.await.unwrap().unwrap_err());
    assert!(error.contains("too small by 1 MiB"), "{error}");
    receiver.task.abort();
    assert!(images.contents() == before, "both ends are untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_error_names_disk_and_byte_and_leaves_the_target_labelled() {
    let images = Images::new(24 * MIB, 24 * MIB, 6);
    let [whole, junk] = images.contents();
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let bad = Troubled::unreadable(&images.source, 19 * MIB + 8192);
    let (sender, _) = start_sender(bad, receiver.address, code());
    let error = format!("{:#}", sender.await.unwrap().unwrap_err());
    assert!(error.contains("at byte 19931136"), "{error}");
    let said = receiver.log.wait(|e| match e {
        Event::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(said.await.contains("at byte 19931136"), "the target says why too");
    receiver.task.abort();
    drop(receiver.task.await);
    let [after, medium] = images.contents();
    assert!(after == whole, "the source is untouched");
    let label = parse(&medium).unwrap();
    assert_eq!(label.job, *b"testjob1", "still an unfinished replica");
    // Beside its label the target carries what came before the error, what was there, and nothing where it would start.
    let tail = 23 * MIB as usize..24 * MIB as usize;
    let (mut head, map) = (vec![0; MIB as usize], label.map_block());
    head[..512].copy_from_slice(&label.sector_0(512));
    head[Label::MAP_OFFSET as usize..][..map.len()].copy_from_slice(&map);
    assert!(medium.starts_with(&head) && medium[tail.clone()].iter().all(|byte| *byte == 0));
    for at in (MIB as usize..tail.start).step_by(MIB as usize) {
        let chunk = at..at + MIB as usize;
        assert!(
            medium[chunk.clone()] == whole[chunk.clone()] || medium[chunk.clone()] == junk[chunk],
            "at {at}"
        );
    }
    assert!(medium[19 * MIB as usize..20 * MIB as usize] == junk[19 * MIB as usize..20 * MIB as usize]);
}

/// A target that carries an older copy: only leaves that differ cross, and head and tail, which are always held back.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_costs_only_the_leaves_that_differ() {
    use std::os::unix::fs::FileExt;
    const LEAF: u64 = 64 << 10;
    let images = Images::new(70 * MIB + 512 * 5, 72 * MIB, 7);
    let mut old = std::fs::read(&images.source).unwrap();
    old.resize(72 * MIB as usize, 0x5a);
    std::fs::write(&images.target, old).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&images.source).unwrap();
    let mut random = Random(99);
    let mut changed = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let at = 2 * MIB + random.next() % (66 * MIB);
        file.write_all_at(&random.next().to_le_bytes(), at).unwrap();
        changed.extend([at / LEAF, (at + 7) / LEAF]);
    }
    let end = gantry_replicate::receiver::TargetDisk::usable(target(&images.target));
    let end = gantry_replicate::receiver::TargetDisk { base: true, ..end };
    let receiver = start_receiver_on(vec![end], Log::new()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    let sent = sender.await.unwrap().unwrap();
    let kept = receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    assert!(kept.report.phases.iter().all(|phase| phase.name != "full"), "no full pass");
    let held = 2 * MIB + 4096;
    let most = changed.len() as u64 * LEAF + held + changed.len() as u64 * 100;
    println!("{} leaves changed, {} bytes crossed", changed.len(), sent.wire_bytes);
    assert!(sent.wire_bytes <= most, "{} bytes crossed, not {most}", sent.wire_bytes);
    assert_eq!(log.epochs(), 1);
}

/// With `--bad-sectors zero` only the sector that cannot be read is lost, and both ends' report says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_sector_is_zero_and_listed_when_that_is_wanted() {
    let images = Images::new(24 * MIB, 24 * MIB, 8);
    let bad = 11 * MIB + 3 * 512;
    let end = Troubled::unreadable(&images.source, bad);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let (sender, _) = start_sender_with(end, receiver.address, BadSectors::Zero);
    let sent = sender.await.unwrap().unwrap();
    let kept = receiver.task.await.unwrap().unwrap();
    assert_eq!(sent.kept, kept);
    assert_eq!(kept.report.disks[0].bad_sectors, [(bad, 512)]);
    let mut expected = std::fs::read(&images.source).unwrap();
    expected[bad as usize..][..512].fill(0);
    let found = std::fs::read(&images.target).unwrap();
    assert_eq!(expected.iter().zip(&found).position(|(a, b)| a != b), None);
}
