//! The power fails after every single operation of a commit, of one, two and three disks; what had not been flushed is
//! there or not, sector by sector. What is found afterwards must be known, must not boot by half, and is made whole by the
//! same code.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_disk::label::HEAD;
use gantry_disk::mark::{self, Mark, Moment};
use gantry_disk::pending::{PLACE, Trace};
use gantry_disk::{
    BadSectors, DiskError, Geometry, Identity, ImageFile, ReadAt, Result, SectorSize, WriteAt,
};
use gantry_replicate::commit::{FinishDisk, Finisher};
use gantry_replicate::receiver::{ReceiveOptions, TargetDisk, receive};
use gantry_replicate::sender::{SendOptions, send};
use gantry_replicate::throttle::Throttle;
use gantry_replicate::{Events, Report};
use gantry_wire::Stage;
use lab::{Log, MIB, Random, anywhere, code};

const JOB: &[u8; 8] = b"testjob1";
const SECTOR: u64 = 512;

/// A machine that loses its power after so many writes, zeroes and flushes on all its disks together.
#[derive(Default)]
struct Power(AtomicU64);

impl Power {
    fn lasting(operations: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(operations)))
    }
    fn is_gone(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
    fn spend(&self) -> Result<()> {
        let spent = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let off = || DiskError::io("disk", "writing", std::io::Error::other("the machine is off"));
        spent.map(drop).map_err(|_| off())
    }
}

/// A disk with a write cache: until a flush, each sector may be found in any of the versions it has had since the last.
struct CachedDisk {
    inner: ImageFile,
    power: Arc<Power>,
    versions: Mutex<HashMap<u64, Vec<Vec<u8>>>>,
}

impl CachedDisk {
    fn open(path: &std::path::Path, power: &Arc<Power>) -> Arc<Self> {
        let inner = ImageFile::open_target(path).unwrap();
        Arc::new(Self { inner, power: Arc::clone(power), versions: Mutex::default() })
    }
    fn remember(&self, offset: u64, length: u64) {
        let mut versions = self.versions.lock().unwrap();
        for sector in offset / SECTOR..(offset + length).div_ceil(SECTOR) {
            let mut bytes = vec![0; SECTOR as usize];
            self.inner.read_at(sector * SECTOR, &mut bytes).unwrap();
            versions.entry(sector).or_default().push(bytes);
        }
    }
    /// What is on the medium when the power comes back.
    fn lose_cache(&self, random: &mut Random) {
        for (sector, versions) in self.versions.lock().unwrap().iter() {
            // The last choice: as it was written last.
            if let Some(bytes) = versions.get(random.next() as usize % (versions.len() + 1)) {
                self.inner.write_at(sector * SECTOR, bytes).unwrap();
            }
        }
    }
}

impl Geometry for CachedDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }
}

impl ReadAt for CachedDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)
    }
}

impl WriteAt for CachedDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.power.spend()?;
        self.remember(offset, data.len() as u64);
        self.inner.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.power.spend()?;
        self.remember(offset, length);
        self.inner.zero_at(offset, length)
    }
    fn flush(&self) -> Result<()> {
        self.power.spend()?;
        self.versions.lock().unwrap().clear();
        Ok(())
    }
}

fn a_mark() -> Mark {
    Mark::new("session", "job", "uuid", Moment::of(std::time::UNIX_EPOCH))
}

/// Marks the boot disk, and lets the power last so long from then on.
struct Marker(Arc<Power>, Option<u64>);

impl Finisher for Marker {
    fn finish(
        &self,
        disks: &mut [FinishDisk],
        _: &mut Report,
        _: &dyn Fn(Stage, &str),
    ) -> anyhow::Result<()> {
        let sector = disks[0].sector_size;
        mark::place(&mut disks[0].pieces[0].1[..HEAD], sector, &a_mark()).unwrap();
        if let Some(operations) = self.1 {
            self.0.0.store(operations, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Source and target images; the targets are blank.
struct Set {
    _folder: tempfile::TempDir,
    sources: Vec<PathBuf>,
    targets: Vec<PathBuf>,
    /// What the targets must become.
    expected: Vec<Vec<u8>>,
}

impl Set {
    /// `crowded`: a disk that has something of its own in the place of the pending record.
    fn new(disks: usize, crowded: Option<usize>, random: &mut Random) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut sources, mut targets, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for disk in 0..disks {
            // The second target is larger than its source.
            let (source, target) =
                (3 * MIB + disk as u64 * 4096, (3 + u64::from(disk == 1)) * MIB + disk as u64 * 4096);
            let mut bytes = vec![0; source as usize];
            bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
            bytes[510] = 0;
            if crowded != Some(disk) {
                bytes[PLACE.start..PLACE.start + mark::LENGTH].fill(0);
            }
            let path = |name: &str| folder.path().join(format!("{name}{disk}"));
            std::fs::write(path("source"), &bytes).unwrap();
            std::fs::write(path("target"), vec![0; target as usize]).unwrap();
            if disk == 0 {
                mark::place(&mut bytes[..HEAD], SectorSize::B512, &a_mark()).unwrap();
            }
            bytes.resize(target as usize, 0);
            sources.push(path("source"));
            targets.push(path("target"));
            expected.push(bytes);
        }
        Self { _folder: folder, sources, targets, expected }
    }

    /// One receiver and one sender, until both are done (true) or the power is gone.
    async fn cross(&self, power: &Arc<Power>, arm: Option<u64>, random: &mut Random) -> bool {
        let disks: Vec<_> = self.targets.iter().map(|path| CachedDisk::open(path, power)).collect();
        let (log, events) = Log::new();
        let options = ReceiveOptions {
            code: code(),
            job: *JOB,
            code_valid: Duration::from_secs(600),
            disks: disks
                .iter()
                .map(|disk| TargetDisk::usable(Arc::clone(disk) as Arc<dyn WriteAt>))
                .collect(),
            committed: None,
            machine: "target".into(),
            software: "test".into(),
        };
        let receiver = tokio::spawn(receive(
            lab::bound(anywhere()),
            options,
            Box::new(Marker(Arc::clone(power), arm)),
            events,
        ));
        let options = SendOptions {
            address: log.address().await.to_string(),
            code: code(),
            disks: self.sources.iter().map(|path| lab::source(path)).collect(),
            map: Vec::new(),
            streams: 1,
            throttle: Throttle::unlimited(),
            whole: false,
            bad_sectors: BadSectors::Stop,
            unchanged: Box::new(|| Ok(())),
            machine: "source".into(),
            software: "test".into(),
        };
        let sender = tokio::spawn(send(options, Events::nowhere()));
        while !(power.is_gone() || receiver.is_finished() && sender.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !power.is_gone() {
            receiver.await.unwrap().unwrap();
            sender.await.unwrap().unwrap();
            return true;
        }
        receiver.abort();
        sender.abort();
        drop((receiver.await, sender.await));
        // Threads of the receiver may still be about to fail.
        while disks.iter().any(|disk| Arc::strong_count(disk) > 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        disks.iter().for_each(|disk| disk.lose_cache(random));
        false
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        self.targets.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }
}

/// What a machine finds that comes back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Found {
    /// All disks are known: the same code goes on with them.
    TakenUp,
    /// The boot disk carries the mark: it was over.
    Committed,
    /// These disks are full and not known: `receive` refuses them, and shows what they carry.
    Refused,
}

/// Judges the disks as they are, and that nothing boots that is not whole.
fn judge(set: &Set) -> Found {
    let contents = set.contents();
    let traces: Vec<_> = contents.iter().map(|bytes| Trace::read(&bytes[..HEAD])).collect();
    let without_place = |bytes: &[u8]| [&bytes[..PLACE.start], &bytes[PLACE.end..]].concat();
    let whole = || contents.iter().zip(&set.expected).all(|(a, b)| without_place(a) == without_place(b));
    let boot_disk_starts = contents[0][..512] == set.expected[0][..512];
    let marked = mark::read(&contents[0]).is_some();
    if boot_disk_starts {
        assert!(whole(), "the boot disk could be started, and something is missing");
    }
    if marked {
        assert!(boot_disk_starts, "the medium would start a disk that cannot be started");
        return Found::Committed;
    }
    let known =
        |trace: &Option<Trace>| trace.as_ref().is_some_and(|trace| trace.may_be_taken_up(JOB, &traces));
    let blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match traces.iter().zip(&contents).all(|(trace, bytes)| known(trace) || blank(bytes)) {
        true => Found::TakenUp,
        false => Found::Refused,
    }
}

/// What must not be, made by hand: the judge sees it.
#[test]
fn the_judge_sees_what_must_not_be() {
    let set = Set::new(2, None, &mut Random(1));
    assert_eq!(judge(&set), Found::TakenUp);
    let fails = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&set))).is_err();
    let put = |from: usize, to: usize| {
        let mut bytes = vec![0; set.expected[0].len()];
        bytes[from..to].copy_from_slice(&set.expected[0][from..to]);
        std::fs::write(&set.targets[0], bytes).unwrap();
    };
    put(PLACE.start, PLACE.end);
    assert!(fails(), "a mark on a disk that cannot be started");
    put(0, 512);
    assert!(fails(), "LBA 0 and nothing behind it");
    put(0, set.expected[0].len());
    assert!(fails(), "the boot disk, and nothing on the other");
    std::fs::write(&set.targets[1], &set.expected[1]).unwrap();
    assert_eq!(judge(&set), Found::Committed);
}

fn seed() -> u64 {
    let given = std::env::var("GANTRY_SEED").ok().and_then(|text| text.parse().ok());
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = given.unwrap_or_else(|| now().into());
    println!("seed {seed}");
    seed
}

/// Ends a crossing after each operation of its commit; what was found each time.
async fn die_everywhere(disks: usize, crowded: Option<usize>) -> Vec<Found> {
    let mut random = Random(seed());
    let mut all = Vec::new();
    for operations in 1.. {
        let set = Set::new(disks, crowded, &mut random);
        if set.cross(&Power::lasting(u64::MAX), Some(operations), &mut random).await {
            assert_eq!(judge(&set), Found::Committed);
            assert!(set.contents() == set.expected, "as it should be without a failure");
            break;
        }
        let found = judge(&set);
        all.push(found);
        if found == Found::Committed {
            continue;
        }
        // Once more, while it is being taken up (with --erase, if it was refused); then in peace.
        let life = 1 + random.next() % 12;
        let again = set.cross(&Power::lasting(life), None, &mut random).await;
        assert!(!again, "a crossing in {life} operations");
        let found_again = judge(&set);
        assert!(
            crowded.is_some() || found_again == Found::TakenUp,
            "{operations}, then {life}: {found_again:?}"
        );
        assert!(set.cross(&Power::lasting(u64::MAX), None, &mut random).await);
        assert!(set.contents() == set.expected, "the data after {operations} operations");
    }
    println!("{disks} disks: {all:?}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_is_always_known() {
    let found = die_everywhere(1, None).await;
    assert!(found.len() > 6 && !found.contains(&Found::Refused));
    assert_eq!(found.first(), Some(&Found::TakenUp));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_are_always_known() {
    let found = die_everywhere(2, None).await;
    assert!(found.len() > 12 && !found.contains(&Found::Refused));
    assert_eq!(found.last(), Some(&Found::Committed), "the records of the others go after the mark has come");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_disks_are_always_known() {
    let found = die_everywhere(3, None).await;
    assert!(found.len() > 20 && !found.contains(&Found::Refused));
}

/// The negative control: without its record a disk is a stranger's between its LBA 0 and the mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_the_record_is_refused_in_the_last_moments() {
    let found = die_everywhere(2, Some(1)).await;
    assert!(found.contains(&Found::Refused) && found.contains(&Found::TakenUp), "{found:?}");
}
