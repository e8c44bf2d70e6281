//! What comes from a peer.

use gantry_replicate::kept::{End, Kept, prepare};
use gantry_replicate::pack::unpack;
use gantry_replicate::report::{SourceFacts, check, check_facts};
use gantry_wire::limits::{CHUNK, FRAME_PAYLOAD, UNPAIRED_PAYLOAD};
use gantry_wire::message::{Encoding, HEADER, decode_header};
use gantry_wire::{Message, tree};

/// A frame: header, payload. A message that is understood means the same when it is said again.
pub fn message(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else { return };
    let Ok((length, tag)) = decode_header(header, FRAME_PAYLOAD) else { return };
    assert!(length <= FRAME_PAYLOAD);
    if let Ok((length, _)) = decode_header(header, UNPAIRED_PAYLOAD) {
        assert!(length <= UNPAIRED_PAYLOAD);
    }
    let Ok(message) = Message::decode(tag, payload) else { return };
    let frame = message.to_frame();
    assert_eq!(message.tag(), tag);
    assert_eq!(Message::decode(tag, &frame[HEADER..]).as_ref(), Ok(&message));
}

/// A chunk as it travels: length in KiB (u16), zstd or not, bytes. It fills the buffer or is refused.
pub fn chunk(bytes: &[u8]) {
    let [low, high, how, data @ ..] = bytes else { return };
    let length = (usize::from(u16::from_le_bytes([*low, *high])) << 10).min(CHUNK as usize);
    let Ok(encoding) = Encoding::from_tag(*how % 2) else { return };
    let mut room = vec![0; length];
    // Its own node would be right if it unpacks: what is tried is the unpacking.
    let accepted = unpack(encoding, data, &tree::zero_chunk(), &mut room).is_ok();
    assert!(!accepted || tree::is_zero(&room));
}

/// A kept report. One that is believed fits its limits, has one spelling or none, and stays what it is when it is kept again.
pub fn report(bytes: &[u8]) {
    let Ok(kept) = Kept::parse(bytes) else { return };
    assert_eq!(check(&kept.report), Ok(()));
    for end in [End::Source, End::Target] {
        let _ = kept.signature(end);
    }
    let mut again = kept.report.clone();
    if prepare(&mut again).is_ok() {
        assert_eq!(check(&again), Ok(()));
    }
    if let Ok(canonical) = kept.canonical() {
        let again = Kept::from_canonical(&canonical).map(|again| again.report);
        assert!(again.is_ok_and(|again| again == kept.report));
    }
}

/// What a sender says of its source: two disks. What is believed crosses again as it was.
pub fn facts(bytes: &[u8]) {
    let sizes = [1 << 20, 1 << 40];
    let Ok(facts) = SourceFacts::parse(bytes) else { return };
    if check_facts(&facts, &sizes).is_ok() {
        // Another spelling may be longer.
        if let Ok(bytes) = facts.bytes(&sizes) {
            assert_eq!(SourceFacts::parse(&bytes), Ok(facts));
        }
    }
}
