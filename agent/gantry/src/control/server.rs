//! The socket of a running replication.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_replicate::throttle::{Schedule, Throttle, clock};
use gantry_replicate::{Event, Events};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use super::place;
use super::status::{LimitNow, Role, State, Status};
use super::talk::{Answer, Request, serve};

/// Who asks at once; more are hung up on.
const CLIENTS: usize = 8;
/// The pause after a client could not be let in.
const BREATH: Duration = Duration::from_secs(1);

/// The socket; it goes with this.
pub struct Control {
    socket: Option<PathBuf>,
}

impl Control {
    /// Opens the socket of this process. Without a throttle, as at a receiver, it can only be asked. The events that
    /// come back are `events` with an ear: the replication must be given them. A socket that cannot be opened is told.
    pub fn open(role: Role, throttle: Option<Throttle>, events: &Events) -> (Self, Events) {
        let desk = Arc::new(Desk { status: Mutex::new(Status::new(role)), throttle });
        let socket = place::directory().and_then(|directory| listen(&directory, Arc::clone(&desk)));
        if let Err(error) = &socket {
            let text = format!("this replication cannot be asked or told anything: {error:#}");
            events.tell(Event::Stage { text });
        }
        let events = events.clone();
        let heard = Events::new(move |event| {
            desk.status().learn(event);
            events.tell(event.clone());
        });
        (Self { socket: socket.ok() }, heard)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A socket that stays is removed by whoever looks next.
        drop(self.socket.take().map(fs::remove_file));
    }
}

fn listen(directory: &Path, desk: Arc<Desk>) -> Result<PathBuf> {
    place::prepare(directory)?;
    // Also removes what dead processes have left, which may be one with our number.
    place::processes(directory)?;
    let socket = place::socket(directory, std::process::id());
    let name = || format!("opening {}", socket.display());
    ensure!(!place::is_served(&socket), "another process answers at {}", socket.display());
    place::remove(&socket)?;
    let listener = UnixListener::bind(&socket).with_context(name)?;
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => admit(&desk, stream),
                // Out of descriptors, most likely: whoever asked tries again, and so do we, but not in a circle.
                Err(_) => thread::sleep(BREATH),
            }
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(accept).with_context(name)?;
    Ok(socket)
}

/// Gives a client a thread of its own, unless there are too many.
fn admit(desk: &Arc<Desk>, stream: UnixStream) {
    // The accepting thread and the events hold one each.
    if Arc::strong_count(desk) < CLIENTS + 2 {
        let desk = Arc::clone(desk);
        let serve = move || {
            // A client that is cut off sees it; the replication has nothing to do with it.
            drop(allowed(&stream).and_then(|()| serve(&stream, |request| desk.answer(request))));
        };
        // Without a thread the client is hung up on.
        drop(thread::Builder::new().name("control-client".to_owned()).spawn(serve));
    }
}

/// The directory is closed to others; this holds even where somebody has opened it.
fn allowed(stream: &UnixStream) -> Result<()> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).context("asking who asks")?.uid();
    ensure!(peer == geteuid().as_raw(), "another user");
    Ok(())
}

/// What clients and the replication share.
struct Desk {
    status: Mutex<Status>,
    throttle: Option<Throttle>,
}

impl Desk {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: Request) -> Answer {
        match self.act(request) {
            Ok(()) => Answer::Now(Box::new(self.now())),
            Err(why) => Answer::Refused { why },
        }
    }

    fn act(&self, request: Request) -> Result<(), String> {
        if request == (Request::Status {}) {
            return Ok(());
        }
        let Some(throttle) = &self.throttle else {
            return Err(match request {
                Request::Limit { .. } => "this is the receiver: set limits at the sender".to_owned(),
                _ => "this is the receiver: pause at the sender".to_owned(),
            });
        };
        match request {
            Request::Status {} => {}
            Request::Pause {} if self.status().is_over() => {
                return Err("the copy is verified: repair and commit are not held".to_owned());
            }
            Request::Pause {} => throttle.pause(true),
            Request::Resume {} => throttle.pause(false),
            Request::Limit { read: false, .. } if self.status().role == Role::Copy => {
                return Err("a copy sends nothing: limit its reading, with --read".to_owned());
            }
            Request::Limit { read, limit } => {
                let schedule: Schedule = limit.parse().map_err(|error| format!("{error}"))?;
                clock::check(&[&schedule]).map_err(|error| error.to_string())?;
                if read { throttle.read() } else { throttle.wire() }.set(schedule);
            }
        }
        Ok(())
    }

    fn now(&self) -> Status {
        let mut status = self.status().clone();
        status.local_time = clock::local_time();
        if let Some(throttle) = &self.throttle {
            status.paused = throttle.is_paused();
            status.limit = (status.role == Role::Send).then(|| LimitNow::from(throttle.wire()));
            status.read_limit = Some(throttle.read().into());
        }
        if status.paused && status.state == State::Running {
            status.state = State::Paused;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::time::Instant;

    use super::*;
    use crate::control::talk::{PATIENCE, ask};

    fn desk(role: Role, throttle: Option<&Throttle>) -> (tempfile::TempDir, PathBuf) {
        desk_at(Status::new(role), throttle)
    }

    fn desk_at(status: Status, throttle: Option<&Throttle>) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let desk = Desk { status: Mutex::new(status), throttle: throttle.cloned() };
        let socket = listen(&scratch.path().join("run"), Arc::new(desk)).unwrap();
        (scratch, socket)
    }

    fn limit(read: bool, limit: &str) -> Request {
        Request::Limit { read, limit: limit.to_owned() }
    }

    fn refusal(socket: &Path, request: &Request) -> String {
        match ask(socket, request).unwrap().unwrap() {
            Answer::Refused { why } => why,
            Answer::Now(status) => panic!("{request:?} was done: {status:?}"),
        }
    }

    fn done(socket: &Path, request: &Request) -> Status {
        match ask(socket, request).unwrap().unwrap() {
            Answer::Now(status) => *status,
            Answer::Refused { why } => panic!("{request:?}: {why}"),
        }
    }

    #[test]
    fn what_is_told_reaches_the_throttle() {
        let throttle = Throttle::unlimited();
        let (_scratch, socket) = desk(Role::Send, Some(&throttle));
        assert!(!done(&socket, &Request::Status {}).paused);
        assert!(done(&socket, &Request::Pause {}).paused && throttle.is_paused());
        assert!(!done(&socket, &Request::Resume {}).paused && !throttle.is_paused());
        let status = done(&socket, &limit(false, "20M"));
        assert_eq!(status.limit, Some(LimitNow { limit: "20M".into(), now: Some(20 << 20) }));
        let status = done(&socket, &limit(true, "00:00-24:00=3M,else=none"));
        assert_eq!(status.read_limit.unwrap().now, Some(3 << 20));
        assert_eq!(throttle.wire().now().unwrap().bytes_per_second(), 20 << 20);
        assert_eq!(done(&socket, &limit(false, "none")).limit.unwrap().now, None);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing() {
        let throttle = Throttle::unlimited();
        let (_one, send) = desk(Role::Send, Some(&throttle));
        let (_two, copy) = desk(Role::Copy, Some(&throttle));
        let (_three, receive) = desk(Role::Receive, None);
        assert!(refusal(&send, &limit(false, "20MB")).contains("no rate"));
        assert!(refusal(&send, &limit(true, "08:00-09:00=1M,08:30-10:00=1M")).contains("overlaps"));
        assert!(refusal(&copy, &limit(false, "20M")).contains("--read"));
        for request in [Request::Pause {}, Request::Resume {}] {
            assert_eq!(refusal(&receive, &request), "this is the receiver: pause at the sender");
        }
        assert!(refusal(&receive, &limit(false, "1M")).contains("at the sender"));
        assert!(!throttle.is_paused() && throttle.wire().now().is_none() && throttle.read().now().is_none());
    }

    #[test]
    fn repair_and_commit_are_not_held_and_a_pause_then_is_refused() {
        for state in [State::Finishing { text: "repairing".into() }, State::Committed] {
            let throttle = Throttle::unlimited();
            let status = Status { state, ..Status::new(Role::Send) };
            let (_scratch, socket) = desk_at(status, Some(&throttle));
            assert!(refusal(&socket, &Request::Pause {}).contains("not held"));
            assert!(!throttle.is_paused());
            done(&socket, &Request::Resume {});
        }
    }

    #[test]
    fn what_a_dead_process_left_gives_way_and_what_answers_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("run");
        place::prepare(&directory).unwrap();
        let socket = place::socket(&directory, std::process::id());
        let desk = || Arc::new(Desk { status: Mutex::new(Status::new(Role::Send)), throttle: None });
        std::os::unix::fs::symlink("/nowhere/at/all", &socket).unwrap();
        assert_eq!(listen(&directory, desk()).unwrap(), socket);
        done(&socket, &Request::Status {});
        let error = listen(&directory, desk()).unwrap_err().to_string();
        assert!(error.contains("another process answers"), "{error}");
        done(&socket, &Request::Status {});
    }

    #[test]
    fn nonsense_gets_an_answer_and_a_line_without_end_is_cut_off() {
        let (_scratch, socket) = desk(Role::Send, Some(&Throttle::unlimited()));
        let said = |text: &str| {
            let stream = UnixStream::connect(&socket).unwrap();
            (&stream).write_all(format!("{text}\n").as_bytes()).unwrap();
            BufReader::new(&stream).lines().collect::<Result<Vec<_>, _>>().unwrap()
        };
        for nonsense in ["", "{}", "[1", r#"{"request":"status","more":1}"#, r#"{"request":"erase"}"#] {
            let answer = said(nonsense);
            assert!(answer.len() == 1 && answer[0].contains("refused"), "{nonsense}: {answer:?}");
        }
        assert!(said(r#"{"request":"status"}"#)[0].contains("starting"));
        let stream = UnixStream::connect(&socket).unwrap();
        // Written by a thread: the other end may close in the middle of it.
        let flood = stream.try_clone().unwrap();
        let writer = thread::spawn(move || (&flood).write_all(&[b'x'; 1 << 20]).is_err());
        let line = BufReader::new(&stream).lines().next();
        assert!(line.is_none_or(|line| line.is_err()), "cut off");
        assert!(writer.join().unwrap());
    }

    #[test]
    fn who_says_a_little_now_and_then_is_hung_up_on_all_the_same() {
        let (_scratch, socket) = desk(Role::Send, Some(&Throttle::unlimited()));
        let stream = UnixStream::connect(&socket).unwrap();
        let began = Instant::now();
        while (&stream).write_all(b" ").is_ok() {
            assert!(began.elapsed() < 6 * PATIENCE, "still listened to");
            thread::sleep(PATIENCE / 50);
        }
        assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
    }

    #[test]
    fn idle_clients_keep_nobody_waiting_and_too_many_are_hung_up_on() {
        let (_scratch, socket) = desk(Role::Send, Some(&Throttle::unlimited()));
        let connect = || UnixStream::connect(&socket).unwrap();
        let answered = |stream: &UnixStream| {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // A client that is hung up on may notice while writing.
            let _ = { stream }.write_all(b"{\"request\":\"status\"}\n");
            BufReader::new(stream).lines().next().is_some_and(|line| line.is_ok())
        };
        let idle: Vec<_> = (0..CLIENTS - 1).map(|_| connect()).collect();
        let began = Instant::now();
        assert!(answered(&connect()), "asked beside idle ones");
        assert!(began.elapsed() < PATIENCE, "without waiting for them");
        let more: Vec<_> = (0..CLIENTS).map(|_| connect()).collect();
        assert!(more.iter().any(|stream| !answered(stream)), "one too many");
        drop((idle, more));
        let end = Instant::now() + Duration::from_secs(30);
        while !answered(&connect()) {
            assert!(Instant::now() < end, "the places are never free again");
        }
    }
}
