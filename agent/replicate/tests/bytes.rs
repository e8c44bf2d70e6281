//! Bytes are spoilt, held back and let go between two honest ends: nothing wrong is ever written.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::time::Duration;

use gantry_replicate::Event;
use lab::*;
use tokio::time::timeout;

const SIZE: u64 = 24 * MIB + 7 * 512;
const PATIENCE: Duration = Duration::from_secs(120);

fn lost(event: &Event) -> Option<String> {
    match event {
        Event::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

/// Bytes are flipped, dropped, repeated and swapped in both directions, at random places: TLS sees it, the epoch ends,
/// and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn spoilt_bytes_end_the_epoch_and_nothing_else() {
    let seed = seed();
    let mut random = Random(seed);
    let images = Images::new(SIZE, SIZE, seed);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (sender, log) = start_sender(source(&images.source), proxy.address, code());
    let mut spoilt = 0;
    let troubles = [Trouble::Flip, Trouble::Drop, Trouble::Repeat, Trouble::Swap];
    let rounds = if slow() { 64 } else { 4 };
    let first = random.next() as usize % troubles.len();
    for round in 0..rounds {
        // Towards the sender hardly more than handshakes and acknowledgements flow.
        let (way, far) = if round % 2 == 0 { (0, 2 * MIB) } else { (1, 2000) };
        let trouble = troubles[(first + round + round / 4) % troubles.len()];
        let before = log.0.lock().unwrap().iter().filter(|event| lost(event).is_some()).count();
        proxy.spoil(way, random.next() % far, trouble, Random(random.next()));
        while !proxy.has_spoilt() && !sender.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !proxy.has_spoilt() {
            break;
        }
        spoilt += 1;
        let noticed = timeout(PATIENCE, async {
            while log.0.lock().unwrap().iter().filter(|event| lost(event).is_some()).count() == before
                && !sender.is_finished()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        noticed.await.unwrap_or_else(|_| panic!("nobody noticed {trouble:?} in way {way}"));
    }
    timeout(PATIENCE, sender).await.unwrap().unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    println!("spoilt {spoilt} times, {} epochs", log.epochs());
    assert!(spoilt >= 3, "spoilt {spoilt} times: little was tested");
}

/// All that a dead sender had under way arrives after a new one has begun: it is not taken (law 4).
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_epoch_that_comes_alive_writes_nothing() {
    let seed = seed();
    let mut random = Random(seed);
    for _ in 0..if slow() { 20 } else { 1 } {
        let images = Images::new(SIZE, SIZE, random.next());
        // The dead sender has another content: whatever of it were written late would be seen.
        let dead = Images::new(SIZE, 512, random.next());
        let receiver = start_receiver(target(&images.target), anywhere()).await;
        let proxy = Proxy::start(receiver.address).await;
        let (first, _) = start_sender(source(&dead.source), proxy.address, code());
        let moment = 1000 + random.next() % (8 * MIB);
        timeout(PATIENCE, proxy.passed(moment)).await.unwrap();
        proxy.hold_these();
        first.abort();
        drop(first.await);
        // This one is another source with the same size: a full compare must make the target equal to it.
        let (second, log) = start_sender(source(&images.source), proxy.address, code());
        let begun = log.wait(|event| matches!(event, Event::Epoch { .. }).then_some(()));
        begun.await;
        proxy.release();
        let sent = timeout(PATIENCE, second).await.unwrap().unwrap().unwrap();
        receiver.task.await.unwrap().unwrap();
        images.assert_equal();
        let told = &sent.kept.report.disks[0].source.path;
        assert_eq!(*told, images.source.display().to_string(), "the report names the source that was taken");
        println!("held at byte {moment}; report {:?}", sent.kept.report.disks[0].rewritten_chunks);
    }
}

/// Nothing crosses for an hour, then all of it at once. The hour passes on tokio's clock while both ends wait.
#[tokio::test(flavor = "current_thread")]
async fn a_link_that_is_down_for_an_hour_is_taken_up_again() {
    let seed = seed();
    let images = Images::new(SIZE, SIZE, seed);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let (sender, log) = start_sender(source(&images.source), proxy.address, code());
    proxy.passed(MIB + Random(seed).next() % (8 * MIB)).await;
    proxy.hold_all();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    tokio::time::resume();
    let tries = log.0.lock().unwrap().iter().filter(|event| lost(event).is_some()).count();
    let silent = receiver.log.wait(lost).await;
    assert!(silent.contains("the link is silent"), "the target noticed too: {silent}");
    assert!(tries > 20, "in an hour the source tried {tries} times");
    proxy.release();
    let sent = timeout(PATIENCE, sender).await.unwrap().unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    println!("{tries} tries, {} chunks crossed twice", sent.resent_chunks);
}

/// A frame that claims a pass which never comes does not wait for ever.
#[tokio::test(flavor = "current_thread")]
async fn a_frame_of_a_pass_that_never_begins_ends_the_epoch() {
    let images = Images::new(5 * MIB, 5 * MIB, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let mut sender =
        FakeSender::dial(receiver.address, std::fs::read(&images.source).unwrap()).await.unwrap();
    sender.reach(Point::Begun).await.unwrap();
    sender.pass = u32::MAX;
    let frame = sender.chunk(1).to_frame();
    sender.stream(0, &frame).await.unwrap();
    tokio::time::pause();
    let mut error = String::new();
    while error.is_empty() {
        // Pings, as a living sender says them.
        sender.say(gantry_wire::Message::Ping).await.ok();
        let heard = timeout(Duration::from_secs(5), sender.hear()).await;
        error = heard.map_or(String::new(), |heard| format!("{:#}", heard.unwrap_err()));
    }
    tokio::time::resume();
    assert!(error.contains("a frame without a pass"), "{error}");
    receiver.task.abort();
}
