//! Power fails on the target at any moment: what was acknowledged is there, and half a copy never boots.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::sync::Arc;
use std::time::Duration;

use gantry_disk::ReadAt;
use gantry_disk::label::parse;
use gantry_disk::pending::PLACE;
use lab::*;
use tokio::time::timeout;

const SOURCE: u64 = 7 * MIB + 7 * 512;
const TARGET: u64 = 9 * MIB;

/// An old disk that boots.
fn junk() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..TARGET).map(|i| (i % 253) as u8 | 1).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A whole session onto a disk that remembers, by a sender that puts what it hears into the disk's log.
async fn crossing(source: &[u8], careless: bool) -> (Arc<Journal>, Vec<Entry>) {
    let disk = Arc::new(Journal::new(junk(), careless));
    let receiver = start_receiver(disk.clone(), anywhere()).await;
    let mut sender = FakeSender::dial(receiver.address, source.to_vec()).await.unwrap();
    let log = Arc::clone(&disk);
    sender.on_ack = Box::new(move |extents| log.mark(Entry::Acknowledged(extents)));
    sender.reach(Point::Full).await.unwrap();
    assert_eq!(sender.compare().await.unwrap(), 0);
    sender.commit().await.unwrap();
    disk.mark(Entry::Committed);
    sender.farewell().await.unwrap();
    receiver.task.await.unwrap().unwrap();
    let log = disk.log();
    (disk, log)
}

/// What is wrong with a medium that lost power after `log`.
fn wrong(medium: &[u8], log: &[Entry], source: &[u8]) -> Option<String> {
    let copy = &medium[..source.len()];
    // Where the pending record stands until the last flush of the commit.
    let (front, behind) = (..PLACE.start, PLACE.end..source.len());
    let whole = copy[front] == source[front] && copy[behind.clone()] == source[behind];
    let flushed = log.iter().any(|entry| matches!(entry, Entry::Flush(_)));
    let blank = medium[..512].iter().all(|byte| *byte == 0);
    let label = parse(&medium[..MIB as usize]);
    if medium[..512] == source[..512] && !blank {
        if !whole {
            return Some("it boots half a copy".to_owned());
        }
    } else if let Some(label) = &label {
        if label.source_size != SOURCE {
            return Some("the label is wrong".to_owned());
        }
    } else if !blank && flushed {
        return Some("the first sector is neither blank nor a label nor the source's".to_owned());
    }
    for entry in log {
        match entry {
            Entry::Committed if copy != source => return Some("the commit is not there".to_owned()),
            Entry::Acknowledged(extents) => {
                let mut chunks = extents.iter().flat_map(|e| e.first..e.first + e.count);
                // Head and tail are held in memory until the commit.
                let lost = chunks.find(|index| {
                    let (start, stop) = ((index * MIB) as usize, ((index + 1) * MIB) as usize);
                    *index > 0 && (stop as u64) < SOURCE - MIB && medium[start..stop] != source[start..stop]
                });
                if let Some(index) = lost {
                    return Some(format!("chunk {index} was acknowledged and is not there"));
                }
            }
            _ => {}
        }
    }
    None
}

/// The first state that is wrong, over every prefix of the log.
fn first_wrong(disk: &Journal, log: &[Entry], source: &[u8], random: &mut Random) -> Option<String> {
    let mut states = 0;
    for length in 0..=log.len() {
        for (kind, medium) in disk.states(&log[..length], random).iter().enumerate() {
            states += 1;
            if let Some(text) = wrong(medium, &log[..length], source) {
                return Some(format!(
                    "{text}: power failed after entry {length} of {}, state {kind}",
                    log.len()
                ));
            }
        }
    }
    println!("{states} states of {} entries are sound", log.len());
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn every_prefix_holds_what_was_acknowledged_and_never_boots_half() {
    let seed = seed();
    let images = Images::new(SOURCE, 512, seed);
    let source = std::fs::read(&images.source).unwrap();
    let mut random = Random(seed);
    let rounds = if slow() { 20 } else { 1 };
    for _ in 0..rounds {
        let (disk, log) = crossing(&source, false).await;
        let acked = log.iter().filter(|entry| matches!(entry, Entry::Acknowledged(_))).count();
        assert!(acked > 0 && log.len() > 20, "{acked} acknowledgements in {} entries", log.len());
        assert_eq!(first_wrong(&disk, &log, &source, &mut random), None);
    }
}

/// A disk whose flush does nothing is found out by the same eyes.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_flush_is_found_out() {
    let seed = seed();
    let images = Images::new(SOURCE, 512, seed);
    let source = std::fs::read(&images.source).unwrap();
    let (disk, log) = crossing(&source, true).await;
    let found = first_wrong(&disk, &log, &source, &mut Random(seed)).unwrap();
    println!("{found}");
    assert!(found.contains("acknowledged and is not there") || found.contains("boots half"), "{found}");
}

/// From whatever power left, the session goes on and ends with the source's bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_power_left_is_taken_up_again() {
    let seed = seed();
    let images = Images::new(SOURCE, 512, seed);
    let bytes = std::fs::read(&images.source).unwrap();
    let mut random = Random(seed);
    let (disk, log) = crossing(&bytes, false).await;
    let rounds = if slow() { 60 } else { 4 };
    for _ in 0..rounds {
        let length = random.next() as usize % log.len();
        let left = disk.after_power_loss(&log[..length], || random.next().is_multiple_of(2));
        let end = Arc::new(Journal::new(left, false));
        let receiver = start_receiver(end.clone(), anywhere()).await;
        let (sender, _) = start_sender(source(&images.source), receiver.address, code());
        timeout(Duration::from_secs(60), sender).await.unwrap().unwrap().unwrap();
        receiver.task.await.unwrap().unwrap();
        let mut medium = vec![0; bytes.len()];
        end.read_at(0, &mut medium).unwrap();
        assert!(medium == bytes, "after {length} of {} entries", log.len());
    }
}
