//! Links are cut, ends die: the data arrive all the same, and what crosses twice is bounded.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::time::Duration;

use gantry_disk::label::parse;
use gantry_replicate::Event;
use lab::*;

/// Chunks that may be on their way when a link is cut: reader runs, queues, socket buffers.
const IN_FLIGHT: u64 = 4 * 8 + 8 + 16;

#[tokio::test(flavor = "multi_thread")]
async fn cut_links_cost_only_what_was_in_flight() {
    let seed = seed();
    let images = Images::new(96 * MIB, 96 * MIB, seed);
    let mut random = Random(seed);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (sender, log) = start_sender(source(&images.source), proxy.address, code());
    let mut at = 0;
    let mut cuts = 0;
    for _ in 0..4 {
        at += random.next() % (14 * MIB);
        while proxy.bytes() < at && !sender.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if sender.is_finished() {
            break;
        }
        proxy.cut_all();
        cuts += 1;
        // The next cut comes in a later epoch.
        while log.epochs() <= cuts && !sender.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let sent = sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    println!("{cuts} cuts, {} chunks crossed twice", sent.resent_chunks);
    assert!(cuts >= 2, "it was over before it could be cut");
    assert!(
        sent.resent_chunks <= cuts * IN_FLIGHT,
        "{} chunks crossed twice after {cuts} cuts",
        sent.resent_chunks
    );
}

/// The sender's machine comes back with another address, as after a new lease. An address proves nothing: somebody else who
/// has the old one by now, but not the code, is sent away, and the session goes on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_comes_from_another_address_goes_on_with_its_session() {
    let images = Images::new(96 * MIB, 96 * MIB, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (sender, _) = start_sender(source(&images.source), proxy.address, code());
    receiver.log.wait(|e| matches!(e, Event::Progress(p) if p.sum.done >= 12 * MIB).then_some(())).await;
    let old = proxy.came_from();
    assert_eq!(old.len(), 1, "{old:?}");
    proxy.cut_all();

    // A proxy that was never cut dials from where the other one was.
    let old_place = Proxy::start(receiver.address).await;
    let stranger =
        start_sender(source(&images.source), old_place.address, gantry_wire::Code::from_random([8; 10]));
    let error = format!("{:#}", stranger.0.await.unwrap().unwrap_err());
    assert!(error.contains("wrong pairing code"), "{error}");
    assert_eq!(old_place.came_from(), old);

    let sent = sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    let came_from = proxy.came_from();
    println!("from {came_from:?}, {} chunks crossed twice", sent.resent_chunks);
    assert!(came_from.len() == 2 && came_from.is_superset(&old), "{came_from:?}");
    let log = receiver.log.0.lock().unwrap();
    let sessions = log.iter().filter(|event| matches!(event, Event::Mapped { .. })).count();
    assert_eq!(sessions, 1, "one session");
    let durable = |event: &Event| match event {
        Event::Epoch { epoch: 2, durable_chunks } => Some(*durable_chunks),
        _ => None,
    };
    assert!(log.iter().find_map(durable) >= Some(12), "what was durable is not sent again");
    assert!(sent.resent_chunks <= IN_FLIGHT, "{} chunks crossed twice", sent.resent_chunks);
}

/// A receiver that has gone for good and one that is yet to come look the same: both are said. When one comes, it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_nobody_answers_says_what_that_may_mean() {
    let images = Images::new(5 * MIB, 5 * MIB, seed());
    // Bound, so that nobody else gets the port, but nobody listens: connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.set_reuseaddr(true).unwrap();
    nobody.bind(anywhere()).unwrap();
    let address = nobody.local_addr().unwrap();
    let (sender, log) = start_sender(source(&images.source), address, code());
    let lost = |log: &Log| -> Vec<String> {
        let reason = |event: &Event| match event {
            Event::Lost { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        log.0.lock().unwrap().iter().filter_map(reason).collect()
    };
    log.wait(|e| matches!(e, Event::Lost { wait: 4, .. }).then_some(())).await;
    let reasons = lost(&log);
    assert!(reasons.iter().all(|reason| reason.contains(&format!("connecting to {address}"))), "{reasons:?}");
    let hints: Vec<bool> = reasons.iter().map(|reason| reason.contains("press ^C here")).collect();
    assert_eq!(hints, [false, false, true], "{reasons:?}");
    let closed = |reason: &String| reason.contains("does gantry receive run there, and is the port open?");
    assert_eq!(reasons.iter().map(closed).collect::<Vec<_>>(), [true, true, false], "{reasons:?}");
    drop(nobody);
    let receiver = start_receiver(target(&images.target), address).await;
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_died_goes_on_where_the_receiver_knows_it_was() {
    let seed = seed();
    let images = Images::new(96 * MIB, 96 * MIB, seed);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (first, _) = start_sender(source(&images.source), proxy.address, code());
    proxy.passed(20 * MIB + Random(seed).next() % (10 * MIB)).await;
    first.abort();
    proxy.cut_all();
    drop(first.await);
    let (second, log) = start_sender(source(&images.source), proxy.address, code());
    second.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    let durable = log.wait(|e| match e {
        Event::Epoch { durable_chunks, .. } => Some(*durable_chunks),
        _ => None,
    });
    assert!(durable.await > 0, "what was acknowledged does not cross again");
}

/// The receiver's machine dies after every so many operations on its disk, in each phase including the head writes, and
/// comes back under another address.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_dies_at_any_point_is_taken_up_again() {
    let seed = seed();
    let mut random = Random(seed);
    let images = Images::new(24 * MIB, 26 * MIB, seed);
    let mut life = target_life(&images.target, 12 + random.next() % 8);
    let mut receiver = start_receiver(life.clone(), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (mut sender, _) = start_sender(source(&images.source), proxy.address, code());
    let mut deaths = 0;
    let report = loop {
        tokio::select! {
            done = &mut receiver.task => {
                match done.unwrap() {
                    Ok(kept) => break Some(kept),
                    // The finishing thread met its disk's death; a real machine would simply be gone.
                    Err(error) => assert!(format!("{error:#}").contains("the machine is off"), "{error:#}"),
                }
            }
            () = dead(&life) => receiver.task.abort(),
        }
        deaths += 1;
        let medium = std::fs::read(&images.target).unwrap();
        let label = parse(&medium);
        println!("death {deaths}: label {:?}", label.as_ref().map(|label| label.stage));
        let finished = {
            let source = std::fs::read(&images.source).unwrap();
            medium[..source.len()] == source
        };
        assert!(
            label.is_some() || finished || medium[..512].iter().all(|b| *b == 0) || deaths == 1,
            "half a head"
        );
        if finished {
            // Power failed after the last sector and before the last word: the disk is whole.
            sender.abort();
            break None;
        }
        proxy.cut_all();
        if sender.is_finished() {
            sender = start_sender(source(&images.source), proxy.address, code()).0;
        }
        while std::sync::Arc::strong_count(&life) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(life);
        life = target_life(&images.target, 5 + 2 * deaths + random.next() % 3);
        receiver = start_receiver(life.clone(), anywhere()).await;
        proxy.redirect(receiver.address);
    };
    if report.is_some() {
        sender.await.unwrap().unwrap();
    }
    images.assert_equal();
    println!("{deaths} deaths, ended by the last: {}", report.is_none());
    assert!(deaths > 1, "the disk hardly died: little was tested");
}

fn target_life(path: &std::path::Path, operations: u64) -> std::sync::Arc<Troubled> {
    Troubled::mortal(path, operations)
}

async fn dead(life: &Troubled) {
    while !life.is_dead() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The flush fails once: nothing since the last good one counts, and the session goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_counts_for_nothing() {
    let images = Images::new(40 * MIB, 40 * MIB, seed());
    let disk = Troubled::failing(&images.target, Operation::Flush, 3, 1);
    let receiver = start_receiver(disk, anywhere()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    let said = log.wait(|e| match e {
        Event::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert!(said.await.contains("flushing"), "the sender hears of it");
    assert_eq!(log.epochs(), 2);
}
