//! Servers that lie. Each lie is an error that says so; the same server telling the truth is believed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_disk::nbd::Address;
use gantry_disk::nbd::proto::{
    ALLOCATION, Blocks, FIXED_NEWSTYLE, GREETING, NO_ZEROES, OPTION_HEADER, OPTION_MAGIC, REQUEST, Reply,
    Request, answer, answer_message, can, chunk, command, info, option, parse_option_header,
};
use gantry_disk::{ErrorKind, Extent, NbdDisk, ReadAt, WriteAt};
use lab::MIB;

const CONTEXT: u32 = 7;

/// The truth about an export: 8 MiB.
fn export_info(size: u64) -> Vec<u8> {
    let flags = can::HAS_FLAGS | can::FLUSH | can::WRITE_ZEROES;
    [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// What the server answers to an option: kinds and data.
type Answers = Vec<(u32, Vec<u8>)>;

fn honest(option: u32) -> Answers {
    match option {
        option::GO => vec![
            (answer::INFO, export_info(8 * MIB)),
            (answer::INFO, Blocks::default().encode()),
            (answer::ACK, vec![]),
        ],
        option::SET_META_CONTEXT => {
            let context = [&CONTEXT.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
            vec![(answer::META_CONTEXT, context), (answer::ACK, vec![])]
        }
        _ => vec![(answer::ACK, vec![])],
    }
}

fn greeting() -> Vec<u8> {
    let flags = FIXED_NEWSTYLE | NO_ZEROES;
    [&GREETING.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// Serves one client: handshake by `answers`, then each request by `replies`. Ends when the client does.
fn serve(
    mut client: UnixStream,
    greeting: &[u8],
    answers: impl Fn(u32) -> Answers,
    replies: impl Fn(&Request) -> Vec<u8>,
) -> std::io::Result<()> {
    client.write_all(greeting)?;
    client.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; OPTION_HEADER];
        client.read_exact(&mut header)?;
        let (option, length) = parse_option_header(&header).unwrap();
        client.read_exact(&mut vec![0; length as usize])?;
        for (kind, data) in answers(option) {
            client.write_all(&answer_message(option, kind, &data))?;
        }
        if option == option::GO {
            break;
        }
    }
    loop {
        let mut request = [0; REQUEST];
        client.read_exact(&mut request)?;
        let request = Request::decode(&request).unwrap();
        match request.command {
            command::DISCONNECT => return Ok(()),
            command::WRITE => client.read_exact(&mut vec![0; request.length as usize])?,
            _ => {}
        }
        client.write_all(&replies(&request))?;
    }
}

/// Ends the server's loop, also when the test fails.
struct Over<'a>(&'a AtomicBool, &'a Path);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(self.1));
    }
}

/// Runs `work` against such a server; clients that come later meet the same.
fn against<T>(
    greeting: &[u8],
    answers: impl Fn(u32) -> Answers + Sync,
    replies: impl Fn(&Request) -> Vec<u8> + Sync,
    work: impl FnOnce(&Address) -> T,
) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("nbd+unix:///?socket={}", path.display()).parse().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((client, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up in the middle is what we want to see.
                let _ = serve(client, greeting, &answers, &replies);
            }
        });
        let _over = Over(&over, &path);
        work(&address)
    })
}

/// The words of an error that must come, and must be no invitation to try again.
fn words<T: std::fmt::Debug>(outcome: gantry_disk::Result<T>, lie: &str) -> String {
    let Err(error) = outcome else { panic!("{lie}: believed: {outcome:?}") };
    assert_eq!(error.kind, ErrorKind::Unsuitable, "{lie}: {error:?}");
    error.to_string()
}

#[test]
fn lies_in_the_handshake_are_found() {
    let good = greeting();
    let truth = |address: &Address| NbdDisk::open_source(address).map(drop);
    against(&good, honest, |_| vec![], truth).unwrap();

    let mut old = good.clone();
    old[17] = 0;
    let strange = vec![0x55; 18];
    for (lie, greeting, part) in [("old", old, "old form"), ("no NBD", strange, "no NBD server")] {
        let text = words(against(&greeting, honest, |_| vec![], truth), lie);
        assert!(text.contains(part), "{lie}: {text}");
    }

    let ack = || (answer::ACK, vec![]);
    let blocks = |minimum, maximum| Blocks { minimum, preferred: 4096, maximum }.encode();
    let other = [&CONTEXT.to_be_bytes()[..], b"qemu:dirty-bitmap:x"].concat();
    let context = || honest(option::SET_META_CONTEXT).remove(0);
    let lies: [(&str, u32, Answers, &str); 11] = [
        ("no export information", option::GO, vec![ack()], "how large"),
        ("a size beyond all", option::GO, vec![(answer::INFO, export_info(1 << 63)), ack()], "cannot be"),
        ("an odd size", option::GO, vec![(answer::INFO, export_info(1000)), ack()], "multiple of 512"),
        ("short information", option::GO, vec![(answer::INFO, vec![0])], "malformed"),
        ("blocks of 3", option::GO, vec![(answer::INFO, blocks(3, 4096))], "malformed"),
        ("most below least", option::GO, vec![(answer::INFO, blocks(4096, 512))], "malformed"),
        ("without end", option::GO, vec![(answer::INFO, export_info(MIB)); 100], "come to an end"),
        ("a long answer", option::GO, vec![(answer::INFO, vec![0; 20_000])], "not to what it was asked"),
        ("data with ACK", option::GO, vec![(answer::ACK, vec![1])], "malformed"),
        ("another context", option::SET_META_CONTEXT, vec![(answer::META_CONTEXT, other), ack()], "context"),
        ("two contexts", option::SET_META_CONTEXT, vec![context(), context(), ack()], "context"),
    ];
    for (lie, at, answers, part) in lies {
        let told = |option| if option == at { answers.clone() } else { honest(option) };
        let text = words(against(&good, told, |_| vec![], truth), lie);
        assert!(text.contains(part), "{lie}: {text}");
    }
}

/// One chunk.
fn chunk_of(request: &Request, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let head = Reply::Chunk { flags, kind, cookie: request.cookie, length: payload.len() as u32 };
    [&head.encode(), payload].concat()
}

fn data(request: &Request, flags: u16, at: u64, length: usize) -> Vec<u8> {
    chunk_of(request, flags, chunk::DATA, &[&at.to_be_bytes()[..], &vec![0xab; length]].concat())
}

fn hole(request: &Request, flags: u16, at: u64, length: u32) -> Vec<u8> {
    chunk_of(request, flags, chunk::HOLE, &[&at.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

fn error(request: &Request, kind: u16, error: u32, text_length: u16, rest: &[u8]) -> Vec<u8> {
    let payload = [&error.to_be_bytes()[..], &text_length.to_be_bytes(), rest].concat();
    chunk_of(request, chunk::DONE, kind, &payload)
}

/// Where and how much is read below.
const AT: u64 = 8192;
const LENGTH: usize = 4096;

type Told = fn(&Request) -> Vec<u8>;

fn read_against(told: Told) -> gantry_disk::Result<Vec<u8>> {
    against(&greeting(), honest, told, |address| {
        let disk = NbdDisk::open_source(address).unwrap();
        let mut buffer = vec![0x77; LENGTH];
        disk.read_at(AT, &mut buffer).map(|()| buffer)
    })
}

#[test]
fn chunks_in_any_order_are_believed() {
    let told = |r: &Request| {
        [data(r, 0, AT + 2048, 2048), hole(r, 0, AT, 1024), data(r, 1, AT + 1024, 1024)].concat()
    };
    let read = read_against(told).unwrap();
    assert!(read[..1024].iter().all(|byte| *byte == 0) && read[1024..].iter().all(|byte| *byte == 0xab));
    let done_alone = |r: &Request| [data(r, 0, AT, LENGTH), chunk_of(r, 1, chunk::NONE, &[])].concat();
    assert!(read_against(done_alone).is_ok());
}

#[test]
fn lies_in_a_read_are_found() {
    let lies: [(&str, Told, &str); 22] = [
        ("another cookie", |r| data(&Request { cookie: 99, ..*r }, 1, AT, LENGTH), "answers request 99"),
        ("a simple reply", |r| Reply::Simple { error: 0, cookie: r.cookie }.encode(), "simple reply"),
        ("no magic", |_| vec![0x11; 64], "malformed"),
        ("more than asked", |r| data(r, 1, AT, LENGTH + 1), "nobody asked for"),
        ("earlier bytes", |r| data(r, 1, AT - 1, LENGTH), "nobody asked for"),
        ("later bytes", |r| data(r, 1, AT + 1, LENGTH), "nobody asked for"),
        ("bytes at the end of all", |r| data(r, 1, u64::MAX - 10, LENGTH), "nobody asked for"),
        ("a gap", |r| [data(r, 0, AT, 1024), data(r, 1, AT + 2048, 2048)].concat(), "byte 9216"),
        ("an end missing", |r| data(r, 1, AT, LENGTH - 1), "byte 12287"),
        ("nothing", |r| chunk_of(r, 1, chunk::NONE, &[]), "leaves out"),
        ("an overlap", |r| [data(r, 0, AT, 2049), data(r, 1, AT + 2048, 2048)].concat(), "nobody asked for"),
        ("twice", |r| [data(r, 0, AT, LENGTH), data(r, 1, AT, LENGTH)].concat(), "nobody asked for"),
        ("a hole over data", |r| [data(r, 0, AT, LENGTH), hole(r, 1, AT, 1)].concat(), "nobody asked for"),
        ("an endless hole", |r| hole(r, 1, AT, u32::MAX), "nobody asked for"),
        ("an empty hole", |r| hole(r, 0, AT, 0), "nobody asked for"),
        ("an empty chunk", |r| data(r, 0, AT, 0), "kind 1"),
        ("an unknown kind", |r| chunk_of(r, 1, 99, &[0; 8]), "kind 99"),
        ("unknown flags", |r| data(r, 3, AT, LENGTH), "unknown flags"),
        ("NONE that goes on", |r| chunk_of(r, 0, chunk::NONE, &[]), "none"),
        ("an error elsewhere", |r| error(r, chunk::ERROR_OFFSET, 5, 0, &[0; 8]), "where nothing was asked"),
        ("a text that is not there", |r| error(r, chunk::ERROR, 5, 9999, b"x"), "malformed"),
        (
            "an error of a GiB",
            |r| Reply::Chunk { flags: 1, kind: chunk::ERROR, cookie: r.cookie, length: 1 << 30 }.encode(),
            "error of 1073741824 bytes",
        ),
    ];
    for (lie, told, part) in lies {
        let text = words(read_against(told), lie);
        assert!(text.contains(part), "{lie}: {text}");
    }
}

#[test]
fn the_byte_that_a_server_names_is_in_the_error() {
    let told = |r: &Request| {
        let error = error(r, chunk::ERROR_OFFSET, 5, 3, &[b"bad", &(AT + 700).to_be_bytes()[..]].concat());
        [data(r, 0, AT, 512), error].concat()
    };
    let error = read_against(told).unwrap_err();
    assert_eq!((error.kind, error.offset), (ErrorKind::Io, Some(AT + 700)));
    assert!(error.to_string().contains("(bad)"), "{error}");
}

#[test]
fn a_write_is_done_only_when_its_own_reply_says_so() {
    let write = |told: Told| {
        against(&greeting(), honest, told, |address| {
            let disk = NbdDisk::open_target(address).unwrap();
            let outcome = disk.write_at(AT, &[1; 512]);
            (outcome, disk.flush())
        })
    };
    let (written, flushed) = write(|r| Reply::Simple { error: 0, cookie: r.cookie }.encode());
    assert!(written.is_ok() && flushed.is_ok(), "a simple reply is allowed here");
    let (written, flushed) = write(|r| chunk_of(r, chunk::DONE, chunk::NONE, &[]));
    assert!(written.is_ok() && flushed.is_ok());
    for told in [(|r| Reply::Simple { error: 0, cookie: r.cookie + 1 }.encode()) as Told, |r| {
        data(r, chunk::DONE, AT, 512)
    }] {
        let (written, flushed) = write(told);
        words(written, "write");
        assert!(words(flushed, "flush").contains("nothing since the last good flush counts"));
    }
}

fn status(request: &Request, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let extents = extents.iter().flat_map(|(length, flags)| [length.to_be_bytes(), flags.to_be_bytes()]);
    let payload: Vec<u8> = [context.to_be_bytes()].into_iter().chain(extents).flatten().collect();
    chunk_of(request, chunk::DONE, chunk::BLOCK_STATUS, &payload)
}

#[test]
fn extents_are_cut_to_what_was_asked_and_lies_are_found() {
    let ask = |told: Told| {
        against(&greeting(), honest, told, |address| NbdDisk::open_source(address).unwrap().extents(AT, MIB))
    };
    let extent = |offset, length, zero| Extent { offset, length, zero };
    let found = ask(|r| status(r, CONTEXT, &[(512, 0), (512, 1), (512, 2), (u32::MAX, 3)])).unwrap();
    assert_eq!(found, [extent(AT, 1024, false), extent(AT + 1024, MIB - 1024, true)]);
    assert_eq!(ask(|r| status(r, CONTEXT, &[(512, 2)])).unwrap(), [extent(AT, 512, true)]);
    let refused = ask(|r| error(r, chunk::ERROR, 22, 0, &[])).unwrap();
    assert_eq!(refused, [extent(AT, MIB, false)], "nothing known is data");
    let lies: [(&str, Told); 5] = [
        ("another context", |r| status(r, 8, &[(512, 2)])),
        ("none", |r| status(r, CONTEXT, &[])),
        ("an empty one", |r| status(r, CONTEXT, &[(0, 2), (512, 2)])),
        ("no answer", |r| chunk_of(r, chunk::DONE, chunk::NONE, &[])),
        ("half a number", |r| chunk_of(r, chunk::DONE, chunk::BLOCK_STATUS, &[0; 14])),
    ];
    for (lie, told) in lies {
        words(ask(told), lie);
    }
}
