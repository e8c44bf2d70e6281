//! The target's disk fails for a moment, or is full: the session says so, goes on, and ends with the source's bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gantry_disk::ImageFile;
use gantry_replicate::Event;
use lab::*;
use tokio::task::JoinSet;
use tokio::time::timeout;

const SIZE: u64 = 5 * MIB + 7 * 512;
const PATIENCE: Duration = Duration::from_secs(120);

/// What the sender was told when an epoch was lost.
fn reasons(log: &Log) -> Vec<String> {
    let reason = |event: &Event| match event {
        Event::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    log.0.lock().unwrap().iter().filter_map(reason).collect()
}

/// Crosses onto a disk whose `skip`th operation of a kind fails `times` times. False if it never came to that.
async fn cross_in_spite_of(operation: Operation, skip: u64, times: u64, seed: u64) -> bool {
    let name = format!("{operation:?} {skip}, {times} times");
    let images = Images::new(SIZE, SIZE + 512, seed);
    let disk = Troubled::failing(&images.target, operation, skip, times);
    let receiver = start_receiver(disk.clone(), anywhere()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    let sent = timeout(PATIENCE, sender).await.unwrap_or_else(|_| panic!("{name}: the sender never ends"));
    sent.unwrap().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    receiver.task.await.unwrap().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    images.assert_equal();
    let words = match operation {
        Operation::Read => "reading",
        Operation::Write => "writing",
        Operation::Zero => "zeroing",
        Operation::Flush => "flushing",
    };
    let reasons = reasons(&log);
    if !disk.has_failed() {
        assert_eq!(reasons, [""; 0], "{name}");
        return false;
    }
    // A flush that fails while an epoch is being wound up is no reason of its own.
    let named = reasons.iter().any(|reason| reason.contains(words) && reason.contains("Input/output error"));
    assert!(named, "{name}: {reasons:?}");
    true
}

/// Each single operation of a session fails once: blanking, labels, chunks, flushes, reading back, heads, LBA 0. Without
/// GANTRY_SLOW every third of them, another third each time.
#[tokio::test(flavor = "multi_thread")]
async fn each_operation_may_fail_once() {
    let seed = seed();
    let mut failed = Vec::new();
    for operation in [Operation::Read, Operation::Write, Operation::Zero, Operation::Flush] {
        let step = if slow() { 1 } else { 3 };
        // At least two operations of each kind there are always: a disk is blanked at both ends.
        let (mut tasks, mut next, mut count, mut more) = (JoinSet::new(), seed % step.min(2), 0, true);
        while more || !tasks.is_empty() {
            while more && tasks.len() < 8 {
                tasks.spawn(cross_in_spite_of(operation, next, 1, seed + next));
                next += step;
            }
            match tasks.join_next().await.unwrap().unwrap() {
                true => count += 1,
                // There are not so many operations of this kind.
                false => more = false,
            }
        }
        failed.push((operation, count));
    }
    println!("failed and went on: {failed:?}");
    assert!(failed.iter().all(|(_, count)| *count >= 1), "hardly anything failed: {failed:?}");
}

/// A disk that fails several times in a row.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_may_fail_for_a_while() {
    let seed = seed();
    let cases = [(Operation::Write, 3), (Operation::Flush, 4), (Operation::Read, 4)];
    let mut tasks = JoinSet::new();
    for (operation, skip) in cases {
        tasks.spawn(cross_in_spite_of(operation, skip, 3, seed));
    }
    assert_eq!(tasks.join_all().await, [true; 3]);
}

/// A small filesystem in memory, gone with its owner.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(at: &'a Path, size: u64) -> Self {
        Self::mount(at, &format!("size={size}"));
        Self(at)
    }
    fn grow(&self, size: u64) {
        Self::mount(self.0, &format!("remount,size={size}"));
    }
    fn mount(at: &Path, options: &str) {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).status();
        assert!(status.unwrap().success(), "mounting a small filesystem (needs root)");
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // The test has failed or ended: nothing can be done about it.
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

/// A sparse target on a filesystem that is full: the cause is said; when there is room, it goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_filesystem_is_named_and_room_helps() {
    let images = Images::new(40 * MIB, 512, seed());
    let small = tempfile::tempdir().unwrap();
    let mount = Mount::new(small.path(), 12 * MIB);
    let path = small.path().join("target");
    drop(ImageFile::create(&path, 40 * MIB).unwrap());
    let receiver = start_receiver(target(&path), anywhere()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    let lost = |event: &Event| match event {
        Event::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let said = log.wait(lost).await;
    assert!(said.contains("No space left on device") && said.contains("target"), "{said}");
    mount.grow(64 * MIB);
    let sent = timeout(PATIENCE, sender).await.unwrap().unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    assert!(std::fs::read(&images.source).unwrap() == std::fs::read(&path).unwrap());
    let durable = |event: &Event| match event {
        Event::Epoch { epoch, durable_chunks } if *epoch > 1 => Some(*durable_chunks),
        _ => None,
    };
    let kept = log.wait(durable).await;
    println!("{kept} chunks were kept, {} crossed twice", sent.resent_chunks);
    assert!(kept > 0, "what had found room is not sent again");
    drop(mount);
}

/// The negative control: a disk that goes on failing is never said to be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_never_flushes_is_never_done() {
    let images = Images::new(SIZE, SIZE, seed());
    let disk = Troubled::failing(&images.target, Operation::Flush, 5, u64::MAX);
    let receiver = start_receiver(Arc::clone(&disk) as _, anywhere()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    while reasons(&log).len() < 3 {
        assert!(!sender.is_finished() && !receiver.task.is_finished(), "it ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    disk.mend();
    timeout(PATIENCE, sender).await.unwrap().unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
}
