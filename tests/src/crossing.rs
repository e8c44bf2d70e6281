//! A whole machine crosses: the harness of the end-to-end tests.
//!
//! ```text
//!   source machine                 host                        target machine
//!   AHCI, e1000e, slot 2           127.0.0.1                   virtio-blk, virtio-net, slot 4
//!   gantry.role=send  --10.0.2.2:PROXY-->  proxy  --FORWARD-->  :7878  gantry.role=receive
//!                                          ssh-keyscan  ----->  :22    (the replica, at the end)
//! ```
//!
//! Both machines are on user networks of their own, which know nothing of each other; the only way between them is the
//! proxy, on which a test can lay its hand. The target's disk is larger and full of junk ([`crate::junk`]). After the machines
//! are started nobody touches a key: the harness only watches, and judges from outside.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gantry_qemu::{
    Bus, Cable, Console, Disk, Evidence, Firmware, Forward, Limit, Machine, Medium, Netboot, Nic, NicModel,
    Running, Seen, Stopwatch,
};

use crate::appliance::{Appliance, CONSOLE, EVERY_LINE};
use crate::guest::{Guest, PROOF, Recipe, SOURCE_MAC, SOURCE_SLOT};
use crate::junk;
use crate::proxy::Proxy;
use crate::shell::run;

/// Serial number of the target's disk: what the target is told to erase.
pub const TARGET_SERIAL: &str = "TARGET0001";
/// Serial number of the source's disk.
pub const SOURCE_SERIAL: &str = "SOURCE0001";
/// Size of the target's disk: larger than the source's, so that a backup GPT has to move.
const TARGET_SIZE: u64 = (2 << 30) + (512 << 20);
/// The target's network card: another slot, another model, another address than the source's.
const TARGET_SLOT: u8 = 4;
const TARGET_MAC: &str = "52:54:00:7a:26:e7";
/// SMBIOS UUIDs: two machines are two machines.
const TARGET_UUID: &str = "7a26e700-0000-4000-8000-000000000001";
const SOURCE_UUID: &str = "500ce100-0000-4000-8000-000000000002";
/// The port on which the target takes replicas.
const REPLICATION: u16 = 7878;

/// Texts after which waiting is pointless.
pub const FATAL: &str =
    r"Kernel panic|role \w+ exited with 3|\(initramfs\)|grub rescue>|grub>|BdsDxe: No bootable";
/// The line that says the agent of the appliance is up.
pub const READY: &str = r"gantry: appliance \S+ ready";

/// How the appliance gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// QEMU loads kernel and initramfs.
    Kernel,
    /// The ISO in a CD drive.
    Cd,
    /// From the network, by DHCP and TFTP.
    Network,
}

/// One crossing, from its preparation to its judgement.
#[derive(Debug)]
pub struct Crossing {
    /// The way between the machines.
    pub proxy: Proxy,
    /// Where everything seen is kept.
    pub evidence: Evidence,
    /// The machine that crosses.
    pub guest: Guest,
    /// The times of the phases.
    pub watch: Stopwatch,
    firmware: Firmware,
    start: Start,
    appliance: Appliance,
    scratch: tempfile::TempDir,
    /// Ports of the host that lead to the target's replication port and to its SSH port.
    forwards: [Forward; 2],
    source_hash: blake3::Hash,
}

/// What the replica showed on its first boot.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The lockdown state that its kernel reports.
    pub lockdown: String,
    /// Its root device.
    pub root: String,
}

impl Crossing {
    /// Makes the disks: a copy of the guest's, and the target's, full of junk.
    ///
    /// # Errors
    /// When the guest or the appliance cannot be had, or there is no room.
    pub fn prepare(test: &str, recipe: Recipe, firmware: Firmware, start: Start) -> Result<Self> {
        let evidence = Evidence::new(test)?;
        let (guest, appliance) = (Guest::get(recipe)?, Appliance::get()?);
        let mut watch = Stopwatch::start(&evidence);
        let scratch = tempfile::Builder::new()
            .prefix("gantry-crossing-")
            .tempdir()
            .context("making a scratch directory")?;
        let source = scratch.path().join("source.raw");
        run(Command::new("cp").arg("--sparse=always").args([guest.disk(), source.clone()]))?;
        junk::make(&scratch.path().join("target.raw"), TARGET_SIZE, 0x6a75_6e6b)?;
        guest.variables(firmware, &scratch.path().join("source.fd"))?;
        let forwards =
            [(REPLICATION, free_port()?), (22, free_port()?)].map(|(guest, host)| Forward { host, guest });
        let proxy = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, forwards[0].host)))?;
        let source_hash = hash(&source)?;
        evidence.write("source.before.txt", &format!("{source_hash}\n"))?;
        watch.lap("0 disks prepared")?;
        Ok(Self { proxy, evidence, guest, watch, firmware, start, appliance, scratch, forwards, source_hash })
    }

    /// A file of this crossing that does not outlive it: `source.raw`, `target.raw`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The target machine with everything but the way it starts.
    #[must_use]
    pub fn target_machine(&self) -> Machine {
        let mut machine = Machine::new("target", self.firmware)
            .disk(Disk::raw(self.file("target.raw"), Bus::VirtioBlk, TARGET_SERIAL).boot(1))
            .nic(Nic::user(NicModel::VirtioNet, TARGET_SLOT, TARGET_MAC, &self.forwards));
        machine.uuid = Some(TARGET_UUID.into());
        machine
    }

    /// The source machine with everything but the way it starts.
    #[must_use]
    pub fn source_machine(&self) -> Machine {
        let mut machine = Machine::new("source", self.firmware)
            .disk(Disk::raw(self.file("source.raw"), Bus::Ahci, SOURCE_SERIAL).boot(1))
            .nic(Nic::user(NicModel::E1000e, SOURCE_SLOT, SOURCE_MAC, &[]));
        machine.uuid = Some(SOURCE_UUID.into());
        machine.processors = 1;
        machine
    }

    /// Switches `machine` on so that the appliance starts with these arguments, in the way of this crossing.
    ///
    /// # Errors
    /// When a medium cannot be made or the machine not started.
    pub fn switch_on(&self, mut machine: Machine, arguments: &str) -> Result<Running> {
        let name = machine.name.clone();
        match self.start {
            Start::Kernel => {
                let line = format!("{CONSOLE} {EVERY_LINE} {arguments}");
                machine = machine.kernel(&self.appliance.kernel(), &self.appliance.initramfs(), &line);
                machine.end_at_reset = true;
            }
            Start::Cd => {
                let file = self.file(&format!("{name}.iso"));
                self.appliance.iso(arguments, &file)?;
                machine = machine.medium(Medium::Cd { file, boot: 0 });
            }
            Start::Network => {
                let tree = self.file(&format!("{name}.tftp"));
                self.appliance.pxe(arguments, &tree)?;
                self.boot_from(&tree, &mut machine);
            }
        }
        machine.start(&self.evidence, &self.file(&format!("{name}.fd")))
    }

    /// Switches `machine` on with a network tree that was made without a role, into whose menu these arguments were
    /// written by hand.
    ///
    /// # Errors
    /// When the tree cannot be made or the machine not started.
    pub fn switch_on_by_edited_tree(&self, mut machine: Machine, arguments: &str) -> Result<Running> {
        let tree = self.file(&format!("{}.tftp", machine.name));
        self.appliance.pxe("", &tree)?;
        let menu = tree.join("grub/grub.cfg");
        let text = std::fs::read_to_string(&menu).context("reading the menu")?;
        let edited =
            text.replacen("set gantry_arguments='", &format!("set gantry_arguments='{arguments} "), 1);
        ensure!(
            edited != text && text.contains("load_env"),
            "there is nothing to edit in this menu:\n{text}"
        );
        std::fs::write(&menu, edited).context("writing the menu")?;
        self.boot_from(&tree, &mut machine);
        let variables = self.file(&format!("{}.fd", machine.name));
        machine.start(&self.evidence, &variables)
    }

    /// The network is what `machine` boots from first.
    fn boot_from(&self, tree: &Path, machine: &mut Machine) {
        let bootfile = if self.firmware.is_uefi() { "shimx64.efi" } else { "grub-bios.pxe" };
        for nic in &mut machine.nics {
            if let Cable::User { netboot, .. } = &mut nic.cable {
                *netboot = Some(Netboot { tree: tree.into(), bootfile: bootfile.into(), boot: 0 });
            }
        }
    }

    /// Starts the target and waits until it listens; returns it and the pairing code that it shows.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn start_target(&mut self) -> Result<(Running, String)> {
        self.start_target_with(&format!("gantry.erase={TARGET_SERIAL}"))
    }

    /// Starts the target again after it has died, with the code of its session. No disk may be erased: the one that
    /// carries the session's label is known by it.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn start_target_again(&mut self, code: &str) -> Result<Running> {
        Ok(self.start_target_with(&format!("gantry.code={code}"))?.0)
    }

    fn start_target_with(&mut self, arguments: &str) -> Result<(Running, String)> {
        let mut target =
            self.switch_on(self.target_machine(), &format!("gantry.role=receive {arguments}"))?;
        let ready = target.console.wait_unless(READY, FATAL, Limit::quiet(30))?;
        self.evidence.time("1.1 target: power-on to ready", ready.at)?;
        let found = both(
            &mut target.console,
            [r"pairing code: ([A-Z]{4}(?:-[A-Z]{4}){4})", r"listening on \S+:7878"],
            20,
        )?;
        self.watch.lap("1 target listens")?;
        Ok((target, found[0].group(1).to_owned()))
    }

    /// Starts the source with the code and waits until its agent is up.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn start_source(&mut self, code: &str) -> Result<Running> {
        let target = format!("10.0.2.2:{}", self.proxy.port());
        let arguments =
            format!("gantry.role=send gantry.then=poweroff gantry.target={target} gantry.code={code}");
        let mut source = self.switch_on(self.source_machine(), &arguments)?;
        let ready = source.console.wait_unless(READY, FATAL, Limit::quiet(30))?;
        self.evidence.time("2.1 source: power-on to ready", ready.at)?;
        self.watch.lap("2 source ready")?;
        Ok(source)
    }

    /// Waits for the end of the target's work and for its reset, and returns the machine that starts from its disk. With a
    /// direct kernel that is the same hardware switched on again without the kernel: QEMU would load it again at a reset.
    ///
    /// # Errors
    /// When the work fails or takes too long.
    pub fn hand_over(&mut self, mut target: Running) -> Result<Running> {
        target.console.wait_unless(r"role receive exited with 0", FATAL, Limit::quiet(300))?;
        self.watch.lap("3 copied, verified, repaired")?;
        let text = target.console.text();
        for (i, (phase, seconds)) in phases(&text).into_iter().enumerate() {
            self.evidence.time(&format!("3.{} target: {phase}", i + 1), seconds)?;
        }
        if self.start != Start::Kernel {
            return Ok(target);
        }
        target.wait_end(Limit::quiet(20))?;
        let mut machine = self.target_machine();
        machine.name = "replica".into();
        machine.start(&self.evidence, &self.file("target.fd"))
    }

    /// Judges the replica that is starting: proof from inside, login prompt, host key from outside, screenshot.
    ///
    /// # Errors
    /// When it does not come up whole.
    pub fn arrive(&mut self, replica: &mut Running) -> Result<Arrival> {
        let prompt = format!("{} login:", self.guest.recipe.name);
        let found = both(&mut replica.console, [PROOF, &prompt], 90)?;
        self.watch.lap("4 replica up")?;
        let proof = &found[0];
        ensure!(proof.group(1) == "ok", "the replica's files: {}", proof.group(1));
        ensure!(proof.group(2).starts_with("10.0.2."), "the replica's network: {}", proof.group(2));
        let shown = self.host_key()?;
        ensure!(shown == self.guest.host_key()?, "another host key answers: {shown}");
        replica.screenshot("arrived")?;
        self.watch.lap("5 host key seen from outside")?;
        Ok(Arrival { lockdown: proof.group(4).into(), root: proof.group(5).into() })
    }

    /// Checks that the source's disk is bit for bit as it was; the source must have ended.
    ///
    /// # Errors
    /// When it is not.
    pub fn source_is_unchanged(&mut self) -> Result<()> {
        let now = hash(&self.file("source.raw"))?;
        self.evidence.write("source.after.txt", &format!("{now}\n"))?;
        ensure!(
            now == self.source_hash,
            "the source's disk has changed: {} before, {now} now",
            self.source_hash
        );
        Ok(())
    }

    /// The ed25519 host key that answers on the target's address.
    fn host_key(&self) -> Result<String> {
        let end = Instant::now() + Limit::quiet(30).duration();
        let port = self.forwards[1].host.to_string();
        loop {
            let said = run(Command::new("ssh-keyscan").args([
                "-T",
                "20",
                "-t",
                "ed25519",
                "-p",
                &port,
                "127.0.0.1",
            ]))
            .unwrap_or_default();
            let key = said.lines().find(|line| !line.starts_with('#')).and_then(|line| line.split_once(' '));
            match key {
                Some((_, key)) => return Ok(key.trim().to_owned()),
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(500)),
                None => bail!("no SSH host key answers on the target's port 22"),
            }
        }
    }
}

/// Waits for two texts in any order, each within `quiet` seconds of a quiet machine.
fn both(console: &mut Console, patterns: [&str; 2], quiet: u32) -> Result<[Seen; 2]> {
    let [first, second] = patterns;
    let (index, seen) = match console.wait_for_one_of(&[first, second, FATAL], Limit::quiet(quiet))? {
        (2, seen) => bail!("waiting for /{first}/ and /{second}/, saw {:?}", seen.group(0)),
        found => found,
    };
    let other = console.wait_unless(patterns[1 - index], FATAL, Limit::quiet(quiet))?;
    Ok(if index == 0 { [seen, other] } else { [other, seen] })
}

/// The phases that `gantry receive` reports with their times, as in `phase repair: 113.7 s`.
fn phases(text: &str) -> Vec<(String, Duration)> {
    let phase = |line: &str| {
        let (name, time) = line.trim().strip_prefix("phase ")?.split_once(": ")?;
        let seconds = time.strip_suffix(" s")?.parse::<f64>().ok()?;
        Some((name.to_owned(), Duration::try_from_secs_f64(seconds).ok()?))
    };
    text.lines().filter_map(phase).collect()
}

/// A TCP port of 127.0.0.1 that is free now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}

/// The hash of a file's bytes.
fn hash(path: &Path) -> Result<blake3::Hash> {
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).with_context(|| format!("reading {}", path.display()))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_the_receivers_lines_and_other_lines_are_not() {
        let text = "epoch 1 begins\r\nphase full: 61.5 s\r\nphase repair: -1 s\nphase commit: 0.2 s\n";
        let read = phases(text);
        assert_eq!(read.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["full", "commit"]);
        assert_eq!(read[0].1, Duration::from_millis(61_500));
    }
}
