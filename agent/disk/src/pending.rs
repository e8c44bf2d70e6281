//! The pending record: what says that a disk belongs to an unfinished session while its LBA 0 is already the final one.
//!
//! ```text
//! Label in LBA 0 -> the record as well -> LBA 0 final, the record remains -> the record gone (or the mark in its place)
//!                                         on every disk, the boot disk last    the boot disk first
//! ```
//!
//! A session of several disks ends by several writes. Between the first and the last of them the power may fail, and a disk
//! that has already given up its label must still be known as one of the session's (law 2 would refuse it as somebody's).
//! So the label's record also stands at the place of the mark ([`crate::mark`]), and what belongs there is written when
//! all disks have their LBA 0: the boot disk's mark, so that no medium ever starts a disk whose LBA 0 is not final. As the
//! mark, the record is written only where nobody's bytes are; a disk without such a place goes without, and is refused
//! after a failure in those few moments. It is one sector, so it is there whole or not at all.

use crate::end::SectorSize;
use crate::label::{self, HEAD, Label};
use crate::mark::{LENGTH, OFFSET, free_place};

/// Where the record, and then the mark, is written: bytes of a disk's head, whole sectors whatever their size.
pub const PLACE: std::ops::Range<usize> = OFFSET..HEAD;

/// Puts the record into `head`, the first MiB as it will be; false if its place is somebody's, and `head` unchanged.
pub fn put(head: &mut [u8], sector: SectorSize, label: &Label) -> bool {
    if free_place(head, sector).is_err() {
        return false;
    }
    let record = label.record();
    head[OFFSET..OFFSET + LENGTH].fill(0);
    head[OFFSET..OFFSET + record.len()].copy_from_slice(&record);
    true
}

/// What a disk's head says of a session that did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// LBA 0 is the label: the disk is unfinished.
    Label(Label),
    /// Only the record is there: this disk is finished; whether its session is, the boot disk says.
    Record(Label),
}

impl Trace {
    /// Reads the first MiB of a disk.
    pub fn read(head: &[u8]) -> Option<Self> {
        let record = || label::parse_record(head.get(PLACE)?).map(Self::Record);
        label::parse(head).map(Self::Label).or_else(record)
    }

    /// What it says.
    pub fn label(&self) -> &Label {
        match self {
            Self::Label(label) | Self::Record(label) => label,
        }
    }

    /// Whether the job that calls itself `job` may go on with this disk without asking. `others` are the traces of all disks at
    /// hand: a record counts only beside the boot disk of its session (the first, which ends last), and only if that still
    /// has a trace too. After a commit it has none, and a record that was left behind on another disk opens nothing.
    pub fn may_be_taken_up(&self, job: &[u8; 8], others: &[Option<Self>]) -> bool {
        let boot_disk =
            |other: &&Self| other.label().disk == 0 && other.label().session == self.label().session;
        let pending = match self {
            Self::Label(_) => true,
            Self::Record(_) => others.iter().flatten().any(|other| boot_disk(&other)),
        };
        pending && self.label().job == *job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::LabelStage;
    use crate::mark::{Mark, Moment, place, read};

    fn label(disk: u8) -> Label {
        Label {
            session: [7; 16],
            job: *b"jobjobjo",
            stage: LabelStage::Committing,
            epoch: 3,
            disk,
            disks: 2,
            source_size: 1 << 30,
            sector_size: 512,
            map: String::new(),
        }
    }

    fn record(disk: u8) -> Option<Trace> {
        let mut head = vec![0; HEAD];
        assert!(put(&mut head, SectorSize::B512, &label(disk)));
        Trace::read(&head)
    }

    #[test]
    fn the_record_is_read_back_where_lba_0_is_no_label() {
        assert_eq!(record(1), Some(Trace::Record(label(1))));
        let mut head = vec![0; HEAD];
        put(&mut head, SectorSize::B512, &label(1));
        let first = Label { stage: LabelStage::Receiving, epoch: 4, ..label(1) };
        head[..512].copy_from_slice(&first.sector_0(512));
        assert_eq!(Trace::read(&head), Some(Trace::Label(first)), "the label is newer");
        assert_eq!(Trace::read(&vec![0; HEAD]), None);
        assert_eq!(Trace::read(&[0; 512]), None);
    }

    #[test]
    fn it_takes_the_place_of_a_mark_and_of_nothing_else() {
        let mark = Mark::new("ab", "cd", "ef", Moment::of(std::time::UNIX_EPOCH));
        let mut head = vec![0; HEAD];
        place(&mut head, SectorSize::B512, &mark).unwrap();
        assert!(put(&mut head, SectorSize::B512, &label(0)));
        assert_eq!(read(&head), None, "no medium starts it");
        for at in [OFFSET, OFFSET + LENGTH - 1] {
            let mut head = vec![0; HEAD];
            head[at] = 1;
            let before = head.clone();
            assert!(!put(&mut head, SectorSize::B512, &label(0)));
            assert_eq!(head, before);
        }
        assert!(!put(&mut [0; 4096], SectorSize::B512, &label(0)), "a disk smaller than a MiB");
    }

    #[test]
    fn a_record_counts_only_beside_an_unfinished_boot_disk() {
        let other_session = Trace::Label(Label { session: [8; 16], ..label(0) });
        let job = b"jobjobjo";
        for (trace, others, expected) in [
            (Trace::Label(label(1)), vec![None], true),
            (Trace::Record(label(1)), vec![record(1), Some(Trace::Label(label(0)))], true),
            (Trace::Record(label(1)), vec![record(1), record(0)], true),
            (Trace::Record(label(0)), vec![record(0)], true),
            (Trace::Record(label(1)), vec![record(1), None], false),
            (Trace::Record(label(1)), vec![record(1), Some(other_session)], false),
        ] {
            assert_eq!(trace.may_be_taken_up(job, &others), expected, "{trace:?} beside {others:?}");
            assert!(!trace.may_be_taken_up(b"another!", &others));
        }
    }
}
