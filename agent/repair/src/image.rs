//! Reading an initramfs as the kernel unpacks it: any sequence of zero padding, cpio archives and compressed cpio
//! archives (L-30). Streamed: nothing but names and a few small files is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};

use crate::drivers;

/// Unpacked bytes read at most; a compressed bomb ends here.
const MAX_UNPACKED: u64 = 4 << 30;
/// Bytes of a name at most (the kernel's own limit).
const MAX_NAME: u64 = 4096;
/// Bytes of a kept file at most.
const MAX_KEPT: u64 = 64 << 10;

/// What an image carries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Names of modules, `_` for `-`.
    pub modules: BTreeSet<String>,
    /// Text of files asked for.
    pub files: BTreeMap<String, String>,
}

/// Reads an image; `keep` says which files' text is wanted, by path without a leading slash.
///
/// # Errors
/// `InvalidData` for an archive the kernel would not unpack, `Unsupported` for a compression not read here.
pub fn read(image: impl Read, keep: &dyn Fn(&str) -> bool) -> io::Result<Content> {
    let mut image = BufReader::with_capacity(1 << 16, image);
    let mut content = Content::default();
    let mut budget = MAX_UNPACKED;
    while skip_padding(&mut image)? {
        let magic = image.fill_buf()?;
        match magic {
            [b'0', b'7', b'0', b'7', b'0', ..] => archive(&mut image, keep, &mut content, &mut budget)?,
            [0x1f, 0x8b, ..] => {
                let mut inner = BufReader::new(flate2::bufread::GzDecoder::new(&mut image));
                archives(&mut inner, keep, &mut content, &mut budget)?;
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&mut image)?.single_frame();
                archives(&mut BufReader::new(decoder), keep, &mut content, &mut budget)?;
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] => {
                let decoder = lzma_rust2::XzReader::new(&mut image, false);
                archives(&mut BufReader::new(decoder), keep, &mut content, &mut budget)?;
            }
            [0x02, 0x21, 0x4c, 0x18, ..] => return Err(unsupported("lz4")),
            [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
            [0x5d, 0, 0, ..] => return Err(unsupported("lzma")),
            [0x89, b'L', b'Z', b'O', ..] => return Err(unsupported("lzo")),
            other => {
                let shown: Vec<String> = other.iter().take(6).map(|b| format!("{b:02x}")).collect();
                return Err(invalid(format!("neither cpio nor a known compression: {}", shown.join(" "))));
            }
        }
    }
    Ok(content)
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("compressed by {name}, which is not read here"))
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Skips zero bytes; false at the end.
fn skip_padding(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|b| **b == 0).count();
        let all = zeros == buffer.len();
        input.consume(zeros);
        if !all {
            return Ok(true);
        }
    }
}

/// The archives within one compressed stream.
fn archives(
    input: &mut impl BufRead,
    keep: &dyn Fn(&str) -> bool,
    content: &mut Content,
    budget: &mut u64,
) -> io::Result<()> {
    while skip_padding(input)? {
        archive(input, keep, content, budget)?;
    }
    Ok(())
}

/// One newc archive, up to its trailer.
fn archive(
    input: &mut impl BufRead,
    keep: &dyn Fn(&str) -> bool,
    content: &mut Content,
    budget: &mut u64,
) -> io::Result<()> {
    loop {
        let mut header = [0_u8; 110];
        input.read_exact(&mut header)?;
        if &header[..5] != b"07070" {
            return Err(invalid("a cpio header is not one"));
        }
        let (mode, size, name_length) = (field(&header, 1)?, field(&header, 6)?, field(&header, 11)?);
        if name_length == 0 || name_length > MAX_NAME {
            return Err(invalid(format!("a cpio name of {name_length} bytes")));
        }
        let name_padded = padded(110 + name_length) - 110;
        let size_padded = padded(size);
        *budget = budget
            .checked_sub(110 + name_padded + size_padded)
            .ok_or_else(|| invalid(format!("unpacks to more than {MAX_UNPACKED} bytes")))?;
        let mut name = vec![0; usize::try_from(name_padded).map_err(io::Error::other)?];
        input.read_exact(&mut name)?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]);
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let name = name.trim_start_matches("./").trim_start_matches('/');
        let regular = mode & 0o170_000 == 0o100_000;
        let mut left = size_padded;
        if regular && is_module(name) {
            content.modules.insert(drivers::normal(name));
        } else if regular && size <= MAX_KEPT && keep(name) {
            let mut text = vec![0; usize::try_from(size).map_err(io::Error::other)?];
            input.read_exact(&mut text)?;
            left -= size;
            // A later archive replaces what an earlier one brought, as in the kernel (L-31).
            content.files.insert(name.to_string(), String::from_utf8_lossy(&text).into_owned());
        }
        skip(input, left)?;
    }
}

fn is_module(name: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|suffix| name.ends_with(suffix))
}

/// A header field of eight hex digits, counted behind the magic.
fn field(header: &[u8; 110], index: usize) -> io::Result<u64> {
    let digits = &header[6 + 8 * index..14 + 8 * index];
    std::str::from_utf8(digits)
        .ok()
        .and_then(|d| u64::from_str_radix(d, 16).ok())
        .ok_or_else(|| invalid("a cpio header field is no hex number"))
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(4)
}

fn skip(input: &mut impl BufRead, mut count: u64) -> io::Result<()> {
    while count > 0 {
        let available = input.fill_buf()?.len();
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let step = available.min(usize::try_from(count).unwrap_or(usize::MAX));
        input.consume(step);
        count -= step as u64;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A newc archive of regular files.
    pub(crate) fn cpio(files: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, text) in files.iter().copied().chain([("TRAILER!!!", "")]) {
            let fields = [0, 0o100_644, 0, 0, 1, 0, text.len(), 0, 0, 0, 0, name.len() + 1, 0];
            let header: String = fields.iter().map(|f| format!("{f:08x}")).collect();
            write!(out, "070701{header}{name}\0").unwrap();
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend(text.as_bytes());
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    const EARLY: &[(&str, &str)] = &[("kernel/x86/microcode/GenuineIntel.bin", "code")];
    const MAIN: &[(&str, &str)] = &[
        ("usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko", "elf"),
        ("./usr/lib/modules/6.1/kernel/drivers/block/xen-blkfront.ko.xz", "elf"),
        ("conf/conf.d/resume", "RESUME=none\n"),
    ];

    #[test]
    fn every_segment_is_read_whatever_its_compression() {
        let mut padded = cpio(EARLY);
        padded.resize(padded.len() + 512, 0);
        let xz = std::process::Command::new("sh")
            .arg("-c")
            .arg("xz --check=crc32 -c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .and_then(|mut c| {
                c.stdin.take().unwrap().write_all(&cpio(MAIN))?;
                c.wait_with_output()
            })
            .unwrap()
            .stdout;
        for main in [cpio(MAIN), gzip(&cpio(MAIN)), zstd::encode_all(&cpio(MAIN)[..], 3).unwrap(), xz] {
            let image = [
                padded.clone(),
                main,
                gzip(&cpio(&[("a/sd_mod.ko", "x"), ("conf/conf.d/resume", "RESUME=x\n")])),
            ]
            .concat();
            let content = read(&image[..], &|name| name.starts_with("conf/")).unwrap();
            assert_eq!(content.modules.iter().collect::<Vec<_>>(), ["sd_mod", "virtio_blk", "xen_blkfront"]);
            assert_eq!(content.files["conf/conf.d/resume"], "RESUME=x\n", "the later one counts");
        }
    }

    #[test]
    fn what_the_kernel_would_not_unpack_is_an_error() {
        let whole = cpio(MAIN);
        assert!(read(&whole[..whole.len() - 200], &|_| false).is_err(), "cut short");
        assert!(read(&b"hello"[..], &|_| false).is_err());
        let mut odd = cpio(MAIN);
        odd[6 + 8 * 11..14 + 8 * 11].copy_from_slice(b"ffffffff");
        assert!(read(&odd[..], &|_| false).is_err(), "a name of 4 GiB");
        let gz = gzip(&whole);
        assert!(read(&gz[..gz.len() / 2], &|_| false).is_err());
        assert_eq!(read(&b"BZh91AY"[..], &|_| false).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, start in 0..4_usize) {
            let magic: &[u8] = [&b"070701"[..], &[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], &[0xfd, b'7', b'z', b'X', b'Z', 0]][start];
            bytes.splice(0..0, magic.iter().copied());
            let _ = read(&bytes[..], &|_| true);
        }
    }
}
