//! Random work on a mounted filesystem. A full filesystem is part of the game: errors of space are taken as they come.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::Random;

/// Does `steps` random operations below `root`.
pub fn operate(random: &mut Random, root: &Path, steps: u64) {
    let mut state = State { folders: vec![root.to_owned()], files: Vec::new(), made: 0 };
    for _ in 0..steps {
        if let Err(error) = step(random, &mut state) {
            let known =
                [libc::ENOSPC, libc::EMLINK, libc::EOPNOTSUPP, libc::ENOENT, libc::EFBIG, libc::ERANGE];
            assert!(error.raw_os_error().is_some_and(|code| known.contains(&code)), "{error}");
        }
    }
}

struct State {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    made: u64,
}

impl State {
    /// A name that was never used, in one of the folders.
    fn fresh(&mut self, random: &mut Random) -> PathBuf {
        self.made += 1;
        let stem = "n".repeat(random.below(60) as usize);
        random.pick(&self.folders).join(format!("{stem}{}", self.made))
    }
}

fn step(random: &mut Random, state: &mut State) -> io::Result<()> {
    let file = |random: &mut Random, state: &State| match state.files.is_empty() {
        true => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        false => Ok(random.pick(&state.files).clone()),
    };
    match random.below(16) {
        0..=4 => {
            let path = state.fresh(random);
            state.files.push(path.clone());
            let size = length(random);
            write(random, &File::create(&path)?, 0, size)
        }
        5 => {
            let opened = OpenOptions::new().write(true).open(file(random, state)?)?;
            let end = opened.metadata()?.len();
            let size = length(random);
            write(random, &opened, end, size)
        }
        6 => {
            let opened = OpenOptions::new().write(true).open(file(random, state)?)?;
            opened.set_len(random.below(1 << 20))
        }
        7 => {
            let opened = OpenOptions::new().write(true).open(file(random, state)?)?;
            for _ in 0..random.below(8) {
                let at = random.below(1 << 28);
                write(random, &opened, at, 5000)?;
            }
            Ok(())
        }
        8 => {
            let from = file(random, state)?;
            let to = state.fresh(random);
            state.files.push(to.clone());
            fs::rename(from, to)
        }
        9 => fs::hard_link(file(random, state)?, state.fresh(random)),
        10 | 11 => {
            let index = random.below(state.files.len().max(1) as u64) as usize;
            if index < state.files.len() {
                fs::remove_file(state.files.swap_remove(index))?;
            }
            Ok(())
        }
        12 => {
            let size = random.below(3000) as usize;
            let value: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
            xattr::set(file(random, state)?, format!("user.a{}", random.below(5)), &value)
        }
        13 => {
            let path = state.fresh(random);
            fs::create_dir(&path)?;
            // Now and then a folder with enough entries for a tree of its own.
            if random.once_in(6) {
                for number in 0..random.below(3000) {
                    File::create(path.join(format!("entry{number:08}")))?;
                }
                for number in (0..random.below(2000)).step_by(3) {
                    fs::remove_file(path.join(format!("entry{number:08}")))?;
                }
            }
            state.folders.push(path);
            Ok(())
        }
        14 => {
            let opened = OpenOptions::new().write(true).open(file(random, state)?)?;
            let flags = *random.pick(&[
                FallocateFlags::empty(),
                FallocateFlags::FALLOC_FL_KEEP_SIZE,
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                FallocateFlags::FALLOC_FL_ZERO_RANGE,
            ]);
            let (at, size) = (random.below(1 << 21) as i64, random.below(1 << 20) as i64 + 1);
            Ok(fallocate(&opened, flags, at, size)?)
        }
        _ => symlink("t".repeat(random.below(200) as usize + 1), state.fresh(random)),
    }
}

/// Copies some files of the root that share their blocks with the original, where the filesystem can, and writes into some.
pub fn clone_files(random: &mut Random, root: &Path) {
    let entries: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    for (number, from) in
        entries.iter().filter(|path| path.is_file() && !path.is_symlink()).take(20).enumerate()
    {
        let to = root.join(format!("clone{number}"));
        super::run("cp", &["--reflink=auto", &from.display().to_string(), &to.display().to_string()]);
        if random.once_in(2) {
            let at = random.below(1 << 16);
            let _full =
                OpenOptions::new().write(true).open(&to).and_then(|file| write(random, &file, at, 9000));
        }
    }
}

/// Cuts the free space into pieces: trees of it grow, and lists turn into bitmaps.
pub fn fragment(root: &Path) {
    let folder = root.join("pieces");
    let Ok(()) = fs::create_dir(&folder) else { return };
    let piece = |number: u64| folder.join(format!("piece{number}"));
    let made =
        (0..600).take_while(|&number| fs::write(piece(number), vec![number as u8; 3000]).is_ok()).count();
    for number in (0..made as u64).step_by(2) {
        let _full = fs::remove_file(piece(number));
    }
}

/// Most files are small, some are large.
fn length(random: &mut Random) -> u64 {
    let limit = *random.pick(&[100, 4000, 4000, 70_000, 70_000, 1 << 20, 5 << 20]);
    random.below(limit)
}

/// Bytes that are in no other file.
fn write(random: &mut Random, file: &File, mut at: u64, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let end = at + size;
    while at < end {
        // Fast also without optimisation, and no compression or deduplication can make it small.
        blake3::Hasher::new().update(&random.next().to_le_bytes()).finalize_xof().fill(&mut buffer);
        let piece = (end - at).min(buffer.len() as u64) as usize;
        file.write_all_at(&buffer[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}
