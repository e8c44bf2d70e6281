//! NTFS.
//!
//! One bit a cluster in the file $Bitmap says what is used, so a map is quickly made; whether to believe it is the
//! question. NTFS has no checksums, and Windows leaves volumes in states in which the bitmap is behind: mounted, crashed,
//! hibernated, or shut down "fast", which is hibernation too.
//!
//! The evidence: the boot sector and its backup agree; so do the first records of the master file table and their mirror; the
//! volume is not marked dirty; the log says that the volume was dismounted; there is no hibernated system on it; and the
//! second record: every cluster that any file's list of runs names is called used by the bitmap. For that the whole master file
//! table is read, about a KiB a file, in large pieces.
//!
//! Sources: the format as the Linux-NTFS project documented it, and what ntfs-3g looks at before it mounts.

mod attribute;
mod boot;
mod log;
mod record;
mod table;

use attribute::{Content, kind};
use boot::Boot;
use record::Record;
use table::Table;

use super::bitmap::set_runs;
use super::fields::le16;
use super::{Doubt, Ranges, Window};

/// Records of system files.
const MIRROR: u64 = 1;
const LOG: u64 = 2;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const BITMAP: u64 = 6;

/// Bytes at the start that are boot code, whatever the bitmap says.
const BOOT_CODE: u64 = 8192;
/// Bytes read at once of bitmaps and of the master file table.
const PIECE: u64 = 1 << 20;
/// Volume flags: dirty, log to be resized, upgrade on mount, journal being deleted, object IDs to be repaired, chkdsk under
/// way, changed by chkdsk. Each asks Windows to change the volume, and ntfs-3g does not mount it for writing.
const UNQUIET: u16 = 0xc037;
/// Records that the mirror repeats.
const MIRRORED: u64 = 4;
/// Bytes of a hibernation file that tell whether it holds a system.
const SLEEP_HEADER: u64 = 4096;

/// The used ranges of an NTFS that fills `window`.
///
/// # Errors
/// A [`Doubt`] for everything that is not clean, whole and known.
pub fn map(window: &Window<'_>) -> Result<Ranges, Doubt> {
    let boot = Boot::read(window)?;
    let table = Table::open(window, &boot)?;
    must_be_quiet(&table)?;
    log::must_be_clean(&table.content(LOG, kind::DATA)?, &table)?;
    mirror_must_agree(&table)?;

    let mut used = Ranges::default();
    let set = read_bitmap(&table, &mut used)?;
    used.insert(0..BOOT_CODE.min(window.size()));
    used.insert(boot.clusters * boot.cluster..window.size());
    let claims = check_files(&table, &used)?;
    if claims.clusters > set {
        return Err(Doubt::new("several of its files claim the same clusters"));
    }
    if let Some(file) = claims.hibernation {
        must_not_sleep(&table, file)?;
    }
    Ok(used)
}

fn must_be_quiet(table: &Table<'_>) -> Result<(), Doubt> {
    let Content::Resident(information) = table.content(VOLUME, kind::VOLUME_INFORMATION)? else {
        return Err(Doubt::new("its volume information is not where it must be"));
    };
    let version = information.get(8..10).unwrap_or(&[]);
    if !matches!(version, [1, 2] | [3, 0 | 1]) {
        return Err(Doubt::new(format!("version {version:?} of NTFS is not known")));
    }
    let flags = le16(&information, 10)?;
    if flags & UNQUIET != 0 {
        return Err(Doubt::new(format!("it is marked as dirty ({flags:#x}): Windows would check it")));
    }
    Ok(())
}

fn mirror_must_agree(table: &Table<'_>) -> Result<(), Doubt> {
    let size = table.boot.record;
    let bytes = table.content(MIRROR, kind::DATA)?.read(table, 0, MIRRORED * size)?;
    for (number, bytes) in (0..).zip(bytes.chunks_exact(usize::try_from(size).unwrap_or(1024))) {
        let mirrored = Record::parse(bytes.to_vec(), number)?;
        if mirrored.content() != table.record(number)?.content() {
            return Err(Doubt::new(format!("record {number} of its file table and its mirror differ")));
        }
    }
    Ok(())
}

/// Adds the clusters that are marked as used; how many they are.
fn read_bitmap(table: &Table<'_>, used: &mut Ranges) -> Result<u64, Doubt> {
    let boot = table.boot;
    let bitmap = table.content(BITMAP, kind::DATA)?;
    let needed = boot.clusters.div_ceil(8);
    let mut set = 0;
    for start in (0..needed).step_by(PIECE as usize) {
        let bytes = bitmap.read(table, start, PIECE.min(needed - start))?;
        let bits = (boot.clusters - start * 8).min(PIECE * 8);
        for run in set_runs(&bytes, bits) {
            set += run.end - run.start;
            used.insert((start * 8 + run.start) * boot.cluster..(start * 8 + run.end) * boot.cluster);
        }
    }
    Ok(set)
}

/// What the files of a volume claim.
#[derive(Default)]
struct Claims {
    clusters: u64,
    /// The record of hiberfil.sys.
    hibernation: Option<u64>,
}

/// Every run of every file must be in the map.
fn check_files(table: &Table<'_>, used: &Ranges) -> Result<Claims, Doubt> {
    let cluster = table.boot.cluster;
    let mut claims = Claims::default();
    table.for_each(&mut |record| {
        for attribute in record.attributes(table.boot)? {
            match &attribute.content {
                Content::Runs(part) => {
                    for run in &part.runs {
                        let Some(place) = run.place else { continue };
                        if !used.covers(place * cluster..(place + run.count) * cluster) {
                            return Err(Doubt::new(format!(
                                "record {} of its file table has clusters that its bitmap calls free",
                                record.number
                            )));
                        }
                        claims.clusters = claims.clusters.saturating_add(run.count);
                    }
                }
                Content::Resident(bytes) if attribute.kind == kind::FILE_NAME => {
                    if attribute::is_named(bytes, ROOT, "hiberfil.sys") {
                        claims.hibernation = Some(record.base().unwrap_or(record.number));
                    }
                }
                Content::Resident(_) => {}
            }
        }
        Ok(())
    })?;
    Ok(claims)
}

/// A hibernation file whose header is not all zero holds a system, or did: "hibr" sleeps, "wake" was woken once, and what it
/// did since is not to be told from here.
fn must_not_sleep(table: &Table<'_>, file: u64) -> Result<(), Doubt> {
    let content = table.content(file, kind::DATA)?;
    let header = content.read(table, 0, content.size().min(SLEEP_HEADER))?;
    if header.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let sign = String::from_utf8_lossy(header.get(..4).unwrap_or(&header)).into_owned();
    Err(Doubt::hibernated(format!(
        "Windows is hibernated on it, or was shut down with fast startup (hiberfil.sys starts with {sign:?}): shut it down \
         with \"shutdown /s /t 0\" after \"powercfg /h off\""
    )))
}
