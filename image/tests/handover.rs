//! A medium that stays in the machine starts the migrated disk when, and only when, there is a live mark for it.
//!
//! Real firmware and the real GRUBs of the medium decide; the disk is handmade: boot code that says "REPLICA STARTED" on the
//! serial line, and a mark written by the code that marks real replicas. Kernel and initramfs are not needed: the menu
//! says that it is about to load them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use gantry_disk::mark::{Date, Mark, Moment, OFFSET};
use gantry_image::baked::Baked;
use gantry_image::esp;
use gantry_image::iso;
use gantry_image::loaders::Efi;
use gantry_initramfs::compose::{Boot, Packages, cache_directory, program};
use gantry_qemu::{Bus, Disk, Evidence, Firmware, Limit, Machine, Medium};

/// No two bytes alike, so that a wrong byte order cannot look right.
const HERE: &str = "01234567-89ab-cdef-0123-456789abcdef";
const ELSEWHERE: &str = "11234567-89ab-cdef-0123-456789abcdef";
const CODE: &str = "BCDE-FGHJ-KLNP-RSTX-BCDE";
const MADE: Moment = Moment { date: Date { year: 2026, month: 11, day: 9 }, hour: 12 };
const SAME_DAY: &str = "2026-11-09T13:00:00";
const DISK: &str = "REPLICA STARTED";
const APPLIANCE: &str = "Gantry: loading the appliance";

/// 16-bit code that writes the text behind it (at 7c22) to the first serial port and stops:
/// ds=0; mov si,text; next: lodsb; test al,al; jz end; mov ah,al; wait: mov dx,3fd; in al,dx; test al,20; jz wait;
/// mov dx,3f8; mov al,ah; out dx,al; jmp next; end: hlt; jmp end
const SPEAKING_BOOT_CODE: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x22, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x12, 0x88, 0xc4, 0xba, 0xfd, 0x03,
    0xec, 0xa8, 0x20, 0x74, 0xf8, 0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee, 0xeb, 0xe9, 0xf4, 0xeb, 0xfd, 0x90,
];

/// A running order of one case.
struct Case {
    name: &'static str,
    baked: &'static str,
    machine: &'static str,
    job: String,
    clock: &'static str,
    key: bool,
    disks: usize,
    firmware: Firmware,
    expected: &'static str,
}

fn case(name: &'static str, expected: &'static str) -> Case {
    Case {
        name,
        baked: "gantry.role=receive",
        machine: HERE,
        job: "0123456789abcdef".to_owned(),
        clock: SAME_DAY,
        key: false,
        disks: 1,
        firmware: Firmware::Bios,
        expected,
    }
}

impl Case {
    fn run(self) -> Result<()> {
        let name = self.name;
        self.observe().with_context(|| format!("case: {name}"))
    }

    fn observe(self) -> Result<()> {
        let packages = Packages::new(&cache_directory()?)?;
        let scratch = tempfile::tempdir()?;
        let iso = scratch.path().join("medium.iso");
        let boot =
            Boot { vmlinuz: vec![0; 512], initrd: vec![0; 512], release: "none".to_owned(), modules: 0 };
        iso::build(&packages, &boot, &Baked::new(self.baked)?, &iso)?;
        let mut machine = Machine::new("machine", self.firmware).medium(Medium::Cd { file: iso, boot: 0 });
        machine.memory = 512;
        machine.processors = 1;
        machine.uuid = Some(self.machine.to_owned());
        machine.clock = Some(self.clock.to_owned());
        let mark = Mark::new(&"ab".repeat(16), &self.job, HERE, MADE);
        for number in 0..self.disks {
            let file = scratch.path().join(format!("disk{number}.raw"));
            let last = number + 1 == self.disks;
            match self.firmware {
                Firmware::Bios => bios_disk(&file)?,
                Firmware::Uefi | Firmware::SecureBoot => uefi_disk(&packages, &file)?,
            }
            if last {
                fs::OpenOptions::new()
                    .write(true)
                    .open(&file)?
                    .write_all_at(&mark.encode(), OFFSET as u64)?;
            }
            machine = machine
                .disk(Disk::raw(file, Bus::Ahci, &format!("S{number}")).boot(1 + u8::try_from(number)?));
        }
        let evidence = Evidence::new(&format!("handover-{}", self.name.replace(' ', "-")))?;
        let mut running = machine.start(&evidence, &scratch.path().join("nvram.fd"))?;
        if self.key {
            running.console.wait_for("automatically in", Limit::quiet(30))?;
            running.console.type_text("\r")?;
        }
        let (index, seen) = running.console.wait_for_one_of(&[DISK, APPLIANCE], Limit::quiet(40))?;
        let seen = seen.group(0);
        ensure!([DISK, APPLIANCE][index] == self.expected, "expected {:?}, saw {seen:?}", self.expected);
        running.kill()
    }
}

/// A disk whose boot code speaks.
fn bios_disk(file: &Path) -> Result<()> {
    let mut disk = vec![0; 2 << 20];
    disk[..SPEAKING_BOOT_CODE.len()].copy_from_slice(SPEAKING_BOOT_CODE);
    disk[SPEAKING_BOOT_CODE.len()..][..DISK.len()].copy_from_slice(DISK.as_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(file, disk).context("writing a disk")
}

/// A disk with an EFI system partition whose boot loader speaks: a GRUB that knows one sentence.
fn uefi_disk(packages: &Packages, file: &Path) -> Result<()> {
    let folder = packages.tree("grub-efi-amd64-bin")?.join("usr/lib/grub/x86_64-efi");
    let scratch = tempfile::tempdir()?;
    let (sentence, loader): (PathBuf, PathBuf) = (scratch.path().join("cfg"), scratch.path().join("efi"));
    fs::write(&sentence, format!("echo '{DISK}'\nsleep 1000\n"))?;
    let mut command = program(packages, "grub-common", "/usr/bin/grub-mkimage", "grub-mkimage")?;
    command
        .args(["-O", "x86_64-efi", "-p", "/none", "-d"])
        .arg(folder)
        .arg("-o")
        .arg(&loader)
        .arg("-c")
        .arg(sentence);
    ensure!(command.args(["normal", "echo", "sleep"]).status()?.success(), "grub-mkimage failed");
    let image = esp::image(&Efi { shim: fs::read(loader)?, grub: Vec::new(), mok_manager: Vec::new() })?;
    let disk = fs::File::create(file)?;
    disk.set_len((4 << 20) + image.len() as u64)?;
    disk.write_all_at(&image, 1 << 20)?;
    let mut sfdisk = Command::new("sfdisk").arg("--quiet").arg(file).stdin(Stdio::piped()).spawn()?;
    let table = format!("label: gpt\nstart=2048,size={},type=U\n", image.len() / 512);
    std::io::Write::write_all(&mut sfdisk.stdin.take().context("no input for sfdisk")?, table.as_bytes())?;
    ensure!(sfdisk.wait()?.success(), "sfdisk failed");
    Ok(())
}

#[test]
fn a_live_mark_for_this_machine_starts_its_disk() -> Result<()> {
    case("live", DISK).run()?;
    Case { clock: "2026-11-10T11:59:00", ..case("live until the hour", DISK) }.run()?;
    Case { disks: 2, ..case("live on the second disk", DISK) }.run()
}

#[test]
fn a_mark_that_is_over_or_not_yet_begun_or_for_another_machine_starts_nothing() -> Result<()> {
    Case { clock: "2026-11-10T12:00:00", ..case("over at the hour", APPLIANCE) }.run()?;
    Case { clock: "2026-11-11T01:00:00", ..case("over for a day", APPLIANCE) }.run()?;
    Case { clock: "2026-11-08T13:00:00", ..case("clock behind", APPLIANCE) }.run()?;
    Case { machine: ELSEWHERE, ..case("another machine", APPLIANCE) }.run()
}

#[test]
fn a_key_wins() -> Result<()> {
    Case { key: true, ..case("key", APPLIANCE) }.run()
}

#[test]
fn a_medium_for_a_source_starts_nothing() -> Result<()> {
    Case { baked: "gantry.role=send", ..case("source", APPLIANCE) }.run()
}

#[test]
fn a_baked_code_starts_the_disk_of_its_own_job_only() -> Result<()> {
    const BAKED: &str = "gantry.role=receive gantry.code=BCDE-FGHJ-KLNP-RSTX-BCDE";
    let own = gantry_wire::code::job_tag(&gantry_wire::code::Code::parse(CODE)?);
    Case { baked: BAKED, job: own, ..case("own job", DISK) }.run()?;
    Case { baked: BAKED, ..case("other job", APPLIANCE) }.run()
}

#[test]
fn uefi_starts_the_loader_of_a_marked_disk() -> Result<()> {
    Case { firmware: Firmware::Uefi, ..case("uefi live", DISK) }.run()?;
    Case { firmware: Firmware::Uefi, machine: ELSEWHERE, ..case("uefi another machine", APPLIANCE) }.run()
}

/// Debian's signed GRUB has no clock, so no mark can be known to be live; there BootNext alone hands over.
#[test]
fn under_secure_boot_no_mark_counts() -> Result<()> {
    Case { firmware: Firmware::SecureBoot, ..case("secure boot", APPLIANCE) }.run()
}
