//! The report of a session: both ends keep the same one, whoever was started again, and neither takes a wrong one.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::sync::Arc;
use std::time::Duration;

use gantry_disk::label::parse;
use gantry_disk::view::Written;
use gantry_disk::{ImageFile, ReadAt};
use gantry_replicate::commit::{FinishDisk, Finisher};
use gantry_replicate::kept::{End, Kept};
use gantry_replicate::link::PeerFault;
use gantry_replicate::receiver::{ReceiveOptions, TargetDisk};
use gantry_replicate::report::{Part, Report, SourceDiskFacts, SourceFacts, State, VERSION, limits};
use gantry_replicate::sender::{SendOptions, Sent, send};
use gantry_replicate::{Event, Events};
use gantry_wire::message::Fault;
use gantry_wire::{Stage, tree};
use lab::*;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const SIZE: u64 = 5 * MIB + 7 * 512;
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose signatures are good: the source's, the target's. None may be bad.
fn signed(kept: &Kept) -> (bool, bool) {
    let read = Kept::parse(&serde_json::to_vec_pretty(kept).unwrap()).unwrap();
    let good = |end| read.signature(end).map(|verdict| verdict.unwrap()).is_some();
    (good(End::Source), good(End::Target))
}

async fn done(sender: JoinHandle<anyhow::Result<Sent>>, receiver: Receiver) -> (Kept, Kept) {
    let sent = timeout(PATIENCE, sender).await.unwrap().unwrap().unwrap();
    let kept = timeout(PATIENCE, receiver.task).await.unwrap().unwrap().unwrap();
    (sent.kept, kept)
}

/// What the sender says of a receiver whose report is spoilt so, and what the receiver hears.
async fn spoilt(spoils: Spoils) -> (anyhow::Result<Sent>, Option<PeerFault>) {
    let images = Images::new(SIZE, 512, 21);
    let (address, taken, _tasks) = FakeReceiver { spoils, ..FakeReceiver::honest(SIZE) }.start().await;
    let (sender, _) = start_sender(source(&images.source), address, code());
    let ended = timeout(PATIENCE, sender).await.unwrap_or_else(|_| panic!("the sender never ends")).unwrap();
    let fault = taken.lock().unwrap().fault.clone();
    (ended, fault)
}

/// A spoilt report, and a part of what the sender says.
type Spoilt = (&'static str, Spoils, &'static str);

fn skip(report: &mut Value) {
    report["disks"][0]["parts"][0]["used"] = 512.into();
}

#[rustfmt::skip]
const SPOILT: &[Spoilt] = &[
    ("another layout", |r| r["version"] = 3.into(), "its layout is version 3"),
    ("unfinished", |r| r["state"] = "unfinished".into(), "a session that did not end"),
    ("nothing at all", |r| (r["state"], r["disks"]) = (State::Forgotten.words().into(), json!([])), "its state is \"committed, details lost"),
    ("no disks", |r| r["disks"] = json!([]), "0 disks, and its state"),
    ("being repaired", |r| {
        (r["state"], r["repair"]) = (State::Repairing.words().into(), json!({}));
        r["disks"][0]["after"] = Value::Null;
    }, "its state is \"verified, being repaired\""),
    ("a repair that is not told", |r| r["state"] = State::Repaired.words().into(), "no repair is in it"),
    ("a part of which less is used", skip, "other facts of the source"),
    ("more than was compared", |r| {
        (r["disks"][0]["compared"], r["disks"][0]["parts"]) = ("whole".into(), json!([]));
    }, "other facts of the source"),
    ("bad sectors", |r| r["disks"][0]["bad_sectors"] = json!([[0, 512]]), "other facts of the source"),
    ("another WWN", |r| r["disks"][0]["source"]["wwn"] = "w".into(), "other facts of the source"),
    ("other software", |r| r["source"]["software"] = "else".into(), "other facts of the source"),
    ("another clock", |r| {
        let target = r["target"]["clock"].as_u64().unwrap();
        (r["source"]["clock"], r["clock_offset"]) = (5.into(), (target - 5).into());
    }, "other facts of the source"),
    ("another machine", |r| r["source"]["name"] = "else".into(), "another machine as the source"),
    ("another disk", |r| r["disks"][0]["source"]["path"] = "else".into(), "it is called something else"),
    ("another model", |r| r["disks"][0]["source"]["model"] = "else".into(), "it is called something else"),
    ("another root", |r| r["disks"][0]["root"] = "00".repeat(32).into(), "its root"),
    ("other sectors", |r| r["disks"][0]["sector_size"] = 4096.into(), "its sectors are other ones"),
    ("two disks", |r| { let disk = r["disks"][0].clone(); r["disks"].as_array_mut().unwrap().push(disk) }, "other facts of the source"),
    ("another source", |r| r["source"]["key"] = "00".repeat(32).into(), "another source's key"),
    ("no source", |r| r["source"]["key"] = "".into(), "another source's key"),
    ("another target", |r| r["target"]["key"] = "00".repeat(32).into(), "another key than that of its maker"),
    ("one key", |r| r["source"]["key"] = r["target"]["key"].clone(), "both ends have one key"),
    ("a forged line", |r| r["target"]["name"] = "vm\nsignature of the source: good".into(), "control character"),
    ("a fraction", |r| r["more"] = 0.5.into(), "a fraction"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_report_is_refused_for_good_and_the_receiver_is_told() {
    let mut wrong = Vec::new();
    for (name, spoils, part) in SPOILT {
        let (ended, fault) = spoilt(*spoils).await;
        let said = ended.map_or_else(|error| format!("{error:#}"), |_| "it took it".into());
        let heard = fault.map(|fault| (fault.fault, fault.text));
        let told = matches!(&heard, Some((Fault::Refused, text)) if text.contains(part));
        if !(said.contains(part) && said.contains("Do not trust the replica") && told) {
            wrong.push(format!("{name}: {said}\n    instead of {part:?}; the receiver heard {heard:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The negative control of the table: an honest report is taken and signed, also one with a field of a newer build.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_report_is_signed_with_all_that_is_in_it() {
    let changes: [Spoils; 2] = [|_| (), |r| r["weather"] = "rain".into()];
    for (number, spoils) in changes.into_iter().enumerate() {
        let (ended, fault) = spoilt(spoils).await;
        assert!(fault.is_none(), "{fault:?}");
        let kept = ended.unwrap().kept;
        assert_eq!(signed(&kept), (true, true));
        let file = serde_json::to_value(&kept).unwrap();
        assert_eq!(file["report"].get("weather").is_some(), number == 1);
    }
}

/// A real receiver whose sender does not agree ends, and says why: nobody starts that replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_sender_disowns_the_report_ends_refused() {
    let images = Images::new(SIZE, SIZE, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let mut sender = committed(&receiver, &images).await;
    let text = "the roots are not mine".to_owned();
    sender.say(gantry_wire::Message::Error { fault: Fault::Refused, text }).await.unwrap();
    let error = format!("{:#}", timeout(PATIENCE, receiver.task).await.unwrap().unwrap().unwrap_err());
    assert!(error.contains("is committed") && error.contains("the roots are not mine"), "{error}");
}

/// A scripted sender that has heard of the commit.
async fn committed(receiver: &Receiver, images: &Images) -> FakeSender {
    let bytes = std::fs::read(&images.source).unwrap();
    let mut sender = FakeSender::dial(receiver.address, bytes).await.unwrap();
    sender.reach(Point::Full).await.unwrap();
    sender.compare().await.unwrap();
    sender.commit().await.unwrap();
    sender
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_of_the_sender_is_not_kept() {
    let images = Images::new(SIZE, SIZE, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let mut sender = committed(&receiver, &images).await;
    let error = format!("{:#}", sender.farewell_with(Some([3; 64])).await.unwrap_err());
    assert!(error.contains("the sender's signature"), "{error}");
    // The next one does not know what the report says, and does not sign; nor does it invalidate anything.
    let (honest, _) = start_sender(source(&images.source), receiver.address, code());
    let (sent, kept) = done(honest, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!(signed(&kept), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_was_started_again_before_its_last_word_signs_nothing() {
    let images = Images::new(SIZE, SIZE, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    drop(committed(&receiver, &images).await);
    let (again, _) = start_sender(source(&images.source), receiver.address, code());
    let (sent, kept) = done(again, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!(signed(&kept), (false, true));
    assert_eq!((kept.report.state, kept.report.source.name.as_str()), (State::Verified, "fake"));
}

fn forgotten() -> Report {
    Report { version: VERSION, state: State::Forgotten, session: "ab".into(), ..Report::default() }
}

/// The receiver dies between its commit and its sender's last word. The sender keeps what it knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_started_again_after_the_commit_does_not_take_the_report_away() {
    let images = Images::new(SIZE, SIZE, seed());
    let end = target(&images.target);
    let receiver = start_receiver(Arc::clone(&end), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    // The sender knows of the commit, and its last word does not arrive.
    let (held, once) = (proxy.clone(), std::sync::Once::new());
    let (log, events) = Log::with(move |event| {
        if matches!(event, Event::Committed) {
            once.call_once(|| held.hold_these());
        }
    });
    let options = send_options(vec![source(&images.source)], proxy.address);
    let sender = tokio::spawn(send(options, events));
    log.wait(|event| matches!(event, Event::Committed).then_some(())).await;
    receiver.task.abort();
    drop(receiver.task.await);
    proxy.cut_all();
    while Arc::strong_count(&end) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let options =
        ReceiveOptions { committed: Some(forgotten()), ..receive_options(vec![TargetDisk::usable(end)]) };
    let receiver = start_receiver_by(options, Box::new(NoRepair), Log::new()).await;
    proxy.redirect(receiver.address);
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent.report.state, State::Verified, "what was known first");
    assert_eq!(signed(&sent), (true, true));
    assert_eq!((kept.report.state, signed(&kept)), (State::Forgotten, (false, true)));
}

/// When both were started again, that there was a commit is all that anybody knows.
#[tokio::test(flavor = "multi_thread")]
async fn when_both_were_started_again_the_report_says_that_details_are_lost() {
    let images = Images::new(SIZE, SIZE, seed());
    let options = ReceiveOptions {
        committed: Some(forgotten()),
        ..receive_options(vec![TargetDisk::usable(target(&images.target))])
    };
    let receiver = start_receiver_by(options, Box::new(NoRepair), Log::new()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!((kept.report.state, signed(&kept)), (State::Forgotten, (false, true)));
}

/// Two disks onto two others, crosswise: each is reported with its own.
#[tokio::test(flavor = "multi_thread")]
async fn disks_that_were_mapped_crosswise_are_told_as_they_were() {
    let seed = seed();
    let pairs = [Images::new(SIZE, 9 * MIB, seed), Images::new(3 * MIB, 7 * MIB, seed + 1)];
    let targets = [&pairs[1].target, &pairs[0].target];
    let disks = targets.iter().map(|path| TargetDisk::usable(target(path))).collect();
    let receiver = start_receiver_on(disks, Log::new()).await;
    let path = |path: &std::path::Path| path.display().to_string();
    let map = pairs.iter().map(|pair| (path(&pair.source), path(&pair.target))).collect();
    let ends = pairs.iter().map(|pair| source(&pair.source)).collect();
    let options = SendOptions { map, ..send_options(ends, receiver.address) };
    let sender = tokio::spawn(send(options, Events::nowhere()));
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!(signed(&kept), (true, true));
    for (disk, pair) in kept.report.disks.iter().zip(&pairs) {
        pair.assert_equal();
        assert_eq!((&disk.source.path, &disk.target.path), (&path(&pair.source), &path(&pair.target)));
    }
}

/// What an end calls itself is cut and loses its control characters on the way; that is no reason to distrust it.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_one_line_at_both_ends_and_signed() {
    let images = Images::new(SIZE, SIZE, seed());
    let odd =
        |name: &str| format!("{name}\nsignature of the source: good \u{1b}[2J{}", "\u{fc}".repeat(1000));
    let options = ReceiveOptions {
        machine: odd("vm8"),
        software: odd("gantry"),
        ..receive_options(vec![TargetDisk::usable(target(&images.target))])
    };
    let receiver = start_receiver_by(options, Box::new(NoRepair), Log::new()).await;
    let long = images.dir.path().join("\u{fc}\n\u{7f}".repeat(60));
    std::fs::rename(&images.source, &long).unwrap();
    let end: Arc<dyn ReadAt> = Arc::new(ImageFile::open_source(&long).unwrap());
    let options = SendOptions {
        machine: odd("vm7"),
        software: odd("gantry"),
        ..send_options(vec![end], receiver.address)
    };
    let sender = tokio::spawn(send(options, Events::nowhere()));
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!(signed(&kept), (true, true));
    let Report { source, target, disks, .. } = &kept.report;
    for name in [&source.name, &source.software, &target.name, &target.software, &disks[0].source.path] {
        assert!(name.len() > 200 && name.len() <= 1024 && !name.contains(char::is_control), "{name:?}");
    }
}

/// Facts that no report would hold are refused while the target still says "unfinished replica".
#[tokio::test(flavor = "multi_thread")]
async fn facts_that_cannot_be_are_refused_before_the_commit() {
    let part = |name: &str| Part { name: name.into(), length: 512, kind: "swap".into(), ..Part::default() };
    let disk = |parts: Vec<Part>| SourceDiskFacts { parts, ..SourceDiskFacts::default() };
    let of = |disks: Vec<SourceDiskFacts>| SourceFacts { disks, ..SourceFacts::default() };
    let bad = |count: u64| SourceDiskFacts {
        bad_sectors: (0..count).map(|i| (i * 2, 1)).collect(),
        ..SourceDiskFacts::default()
    };
    let used = |parts| SourceDiskFacts { compared: gantry_replicate::report::Compared::Used, ..disk(parts) };
    let mut behind = part("");
    behind.offset = SIZE;
    for (facts, part) in [
        (of(vec![disk(vec![part("free")])]), "used maps were looked at"),
        (of(vec![used(vec![part("a\nb")])]), "control character"),
        (of(vec![used(vec![part(&"x".repeat(257))])]), "257 bytes of text"),
        (of(vec![used(vec![part(""); 513])]), "513 partitions and volumes"),
        (of(vec![used(vec![behind])]), "a part of 512 bytes"),
        (of(vec![bad(limits::BAD as u64 + 1)]), "16385 bad ranges"),
        (of(vec![]), "facts of 0 disks"),
        (SourceFacts { software: "x".repeat(limits::FACTS), ..of(vec![bad(0)]) }, "bytes of facts"),
    ] {
        let images = Images::new(SIZE, SIZE, 22);
        let receiver = start_receiver(target(&images.target), anywhere()).await;
        let bytes = std::fs::read(&images.source).unwrap();
        let mut sender = FakeSender::dial(receiver.address, bytes).await.unwrap();
        sender.reach(Point::Full).await.unwrap();
        sender.compare().await.unwrap();
        let facts = serde_json::to_vec(&facts).unwrap();
        let error = format!("{:#}", sender.commit_with(facts).await.unwrap_err());
        assert!(error.contains(part) && error.contains("what the sender says"), "{part}: {error}");
        assert!(parse(&std::fs::read(&images.target).unwrap()).is_some(), "{part}: still a label");
        receiver.task.abort();
    }
}

/// Leaves this in the report.
struct Wordy(fn(&mut Report));
impl Finisher for Wordy {
    fn finish(
        &self,
        _: &mut [FinishDisk],
        report: &mut Report,
        _: &dyn Fn(Stage, &str),
    ) -> anyhow::Result<()> {
        (self.0)(report);
        Ok(())
    }
}

/// Says very much at once, as a repair shows its plan.
struct Chatty;
impl Finisher for Chatty {
    fn finish(&self, _: &mut [FinishDisk], _: &mut Report, tell: &dyn Fn(Stage, &str)) -> anyhow::Result<()> {
        (0..500).for_each(|line| tell(Stage::Repairing, &format!("-\tline {line}")));
        Ok(())
    }
}

/// What is shown on the target's console is shown on the source's, line by line.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_finishing_reaches_the_source() {
    let images = Images::new(SIZE, SIZE, seed());
    let options = receive_options(vec![TargetDisk::usable(target(&images.target))]);
    let receiver = start_receiver_by(options, Box::new(Chatty), Log::new()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    done(sender, receiver).await;
    let line = |event: &Event| match event {
        Event::Stage { text } => text.strip_prefix("-\tline ").map(str::to_owned),
        _ => None,
    };
    let heard: Vec<String> = log.0.lock().unwrap().iter().filter_map(line).collect();
    assert_eq!(heard, (0..500).map(|line| line.to_string()).collect::<Vec<_>>());
}

/// A repair that is too long for the wire is left out; what cannot be left out is refused before the commit, and told.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_too_long_is_seen_before_the_commit() {
    let run = async |change: fn(&mut Report)| {
        let images = Images::new(SIZE, SIZE, seed());
        let options = receive_options(vec![TargetDisk::usable(target(&images.target))]);
        let receiver = start_receiver_by(options, Box::new(Wordy(change)), Log::new()).await;
        let (sender, _) = start_sender(source(&images.source), receiver.address, code());
        let sent =
            timeout(PATIENCE, sender).await.unwrap_or_else(|_| panic!("the sender never ends")).unwrap();
        let kept = timeout(PATIENCE, receiver.task).await.unwrap().unwrap();
        (images, sent, kept)
    };
    let (_, sent, kept) = run(|report| report.repair = "x".repeat(3 << 20).into()).await;
    let (sent, kept) = (sent.unwrap().kept, kept.unwrap());
    assert_eq!((&sent, signed(&kept)), (&kept, (true, true)));
    assert_eq!(kept.report.repair, "too long for the wire; kept on the replica");
    assert_eq!(kept.report.state, State::Repaired);

    let (images, sent, kept) = run(|report| report.transforms = vec!["\"".repeat(1024); 1024]).await;
    for error in [format!("{:#}", sent.unwrap_err()), format!("{:#}", kept.unwrap_err())] {
        assert!(error.contains("the report cannot be kept"), "{error}");
    }
    assert!(parse(&std::fs::read(&images.target).unwrap()).is_some(), "still an unfinished replica");
}

/// What a report is made of in a session has one key for each end, which each has shown.
#[tokio::test(flavor = "multi_thread")]
async fn both_keys_are_in_the_report() {
    let images = Images::new(SIZE, SIZE, seed());
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent, kept);
    let keys = [End::Source, End::Target].map(|end| kept.key(end).to_owned());
    assert!(keys.iter().all(|key| tree::unhex::<32>(key).is_some()) && keys[0] != keys[1], "{keys:?}");
}

/// Moves the end of a table as the command's finisher does, where nothing records what repair writes.
struct Unrecorded;
impl Finisher for Unrecorded {
    fn finish(
        &self,
        disks: &mut [FinishDisk],
        _: &mut Report,
        _: &dyn Fn(Stage, &str),
    ) -> anyhow::Result<()> {
        for disk in disks {
            disk.written = Written::Unknown("no recorder here".into());
            for end in [disk.source_size, disk.size] {
                let (start, held) = disk.pieces.iter_mut().rev().find(|(start, _)| *start < end).unwrap();
                held[(end - 512 - *start) as usize] ^= 1;
            }
        }
        Ok(())
    }
}

/// On a larger target, with a source that ends within a leaf, what was changed lies on both sides of the source's end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_at_the_end_of_the_source_is_reported_and_taken() {
    let images = Images::new(SIZE, 9 * MIB, seed());
    let options = receive_options(vec![TargetDisk::usable(target(&images.target))]);
    let receiver = start_receiver_by(options, Box::new(Unrecorded), Log::new()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let (sent, kept) = done(sender, receiver).await;
    assert_eq!(sent, kept);
    assert_eq!(signed(&kept), (true, true));
    let after = kept.report.disks[0].after.as_ref().unwrap();
    assert_eq!(after.known_by, "read whole: no recorder here");
    let leaf = 64 << 10;
    assert_eq!(after.changed, [(0, SIZE.next_multiple_of(leaf)), (9 * MIB - leaf, leaf)]);
}
