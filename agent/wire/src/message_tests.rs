use proptest::prelude::*;

use crate::message::*;

fn disk() -> DiskInfo {
    DiskInfo {
        path: "/dev/sda".into(),
        serial: "S1".into(),
        model: "M".into(),
        size: 1 << 30,
        sector_size: 512,
        refusal: String::new(),
    }
}

fn every_message() -> Vec<Message> {
    vec![
        Message::PairProof { role: Role::Sender, mac: [3; 32] },
        Message::Join { token: [4; 32] },
        Message::Hello {
            versions: vec![2],
            software: "gantry".into(),
            machine: "m".into(),
            disks: vec![disk()],
        },
        Message::Offer { version: 2, stage: Stage::Receiving, machine: "n".into(), disks: vec![disk()] },
        Message::Assign { pairs: vec![(0, 1)] },
        Message::Begin {
            epoch: 9,
            token: [6; 32],
            full: true,
            disks: vec![DiskState { source: 0, target: 1, durable: vec![Extent { first: 2, count: 3 }] }],
        },
        Message::StartPass { pass: 1, kind: PassKind::Compare },
        Message::Chunk {
            epoch: 9,
            pass: 1,
            disk: 0,
            index: 77,
            encoding: Encoding::Zstd,
            length: 4096,
            node: [7; 32],
            data: vec![1, 2, 3],
        },
        Message::Zeroes { epoch: 9, pass: 1, disk: 0, extent: Extent { first: 5, count: 6 }, unused: true },
        Message::EndPass { pass: 1, chunks: 100 },
        Message::Ack { pass: 1, disk: 0, extents: vec![Extent { first: 0, count: 8 }] },
        Message::PassDone { pass: 1, differing: 2 },
        Message::Group { pass: 2, disk: 0, group: 1, node: [8; 32] },
        Message::Compared { pass: 2, disk: 0, group: 1, equal: false },
        Message::Digests { pass: 2, disk: 0, group: 1, nodes: vec![[8; 32]; 2] },
        Message::Wanted { pass: 2, disk: 0, group: 1, chunks: 0b10 },
        Message::Leaves { pass: 2, disk: 0, index: 65, leaves: Box::new([[10; 32]; 16]) },
        Message::WantedLeaves { pass: 2, disk: 0, index: 65, leaves: 0x8001 },
        Message::Patch {
            epoch: 9,
            pass: 2,
            disk: 0,
            index: 65,
            leaves: 0x8001,
            encoding: Encoding::Raw,
            node: [11; 32],
            data: vec![4, 5],
        },
        Message::Roots { roots: vec![[9; 32]] },
        Message::Finish { facts: b"{}".to_vec() },
        Message::Progress { text: "initramfs".into() },
        Message::Committed { report: b"{}".to_vec(), signature: [12; 64] },
        Message::Done { signature: Some([13; 64]) },
        Message::Done { signature: None },
        Message::Bye,
        Message::Error { fault: Fault::WrongCode, text: "no".into() },
        Message::Ping,
    ]
}

fn decode_frame(frame: &[u8]) -> Message {
    let header = frame[..HEADER].try_into().unwrap();
    let (length, tag) = decode_header(&header, usize::MAX).unwrap();
    assert_eq!(length, frame.len() - HEADER);
    Message::decode(tag, &frame[HEADER..]).unwrap()
}

#[test]
fn every_message_survives_the_wire() {
    for message in every_message() {
        assert_eq!(decode_frame(&message.to_frame()), message);
    }
}

/// Version 2 in bytes: one digest over all frames above. Once a version is released this must not change: a peer that has
/// it would no longer understand us. Until then version 2 is what the tree says, and the CHANGELOG tells when it changed.
#[test]
fn version_2_is_what_it_was() {
    let mut all = blake3::Hasher::new();
    for message in every_message() {
        all.update(&message.to_frame());
    }
    assert_eq!(
        all.finalize().to_hex().as_str(),
        "4bc71bc4a1d043266ab9a577dd63ba18967f016b654528b5ece2532770aba6fa"
    );
    let ping = Message::EndPass { pass: 1, chunks: 100 }.to_frame();
    assert_eq!(ping, [12, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
}

/// A newer peer's first message may be longer or shorter than ours: what is read of it is which versions it speaks.
#[test]
fn a_first_message_of_another_version_says_so() {
    let hello = Message::decode(3, &[1, 0, 0, 0, 7, 0, 0xff, 0xff, 1, 2, 3]).unwrap();
    assert!(matches!(hello, Message::Hello { versions, .. } if versions == [7]));
    let offer = Message::decode(4, &[7, 0, 99]).unwrap();
    assert!(matches!(offer, Message::Offer { version: 7, .. }));
    assert!(Message::decode(3, &[1, 0, 0, 0, 2, 0, 0xff, 0xff, 1, 2, 3]).is_err(), "ours is read as a whole");
    assert!(Message::decode(4, &[2, 0, 99]).is_err(), "ours is read as a whole");
}

#[test]
fn lengths_that_lie_are_refused() {
    for message in every_message() {
        let frame = message.to_frame();
        let payload = &frame[HEADER..];
        if !payload.is_empty() && !matches!(message, Message::Chunk { .. } | Message::Patch { .. }) {
            assert!(
                Message::decode(message.tag(), &payload[..payload.len() - 1]).is_err(),
                "{message:?} cut"
            );
            let longer = [payload, &[0]].concat();
            assert!(Message::decode(message.tag(), &longer).is_err(), "{message:?} with a tail");
        }
    }
    let huge = [0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0];
    assert!(decode_header(&huge, crate::limits::FRAME_PAYLOAD).is_err());
    assert!(Message::decode(5, &[0xff; 4]).is_err(), "a count beyond its limit");
    assert!(Message::decode(99, &[]).is_err());
}

#[test]
fn a_peers_text_does_not_steer_the_terminal() {
    let text = "one\n\ttwo \x1b]0;title\x07 \u{9b}2J".to_owned();
    let said = Message::Progress { text: "one\n\ttwo ?]0;title? ?2J".to_owned() };
    assert_eq!(decode_frame(&Message::Progress { text }.to_frame()), said);
}

#[test]
fn a_name_has_one_line() {
    let named = |path: &str| DiskInfo { path: path.into(), ..disk() };
    let offer = |machine: &str, disk| Message::Offer {
        version: 2,
        stage: Stage::Receiving,
        machine: machine.into(),
        disks: vec![disk],
    };
    let forged = offer("vm7\nsignature of the source: good", named("/dev/sda\r\nstate: verified"));
    let plain = offer("vm7?signature of the source: good", named("/dev/sda??state: verified"));
    assert_eq!(decode_frame(&forged.to_frame()), plain);
    let refusal = DiskInfo { refusal: "carries\n  ext4".into(), ..disk() };
    let told = offer("vm7", refusal);
    assert_eq!(decode_frame(&told.to_frame()), told, "a refusal may have several");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(tag in 0u16..30, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(tag, &payload);
    }
}
