//! The boot menu, and with it the hand-over: `grub.cfg`.
//!
//! A medium often stays in the machine, first in the boot order, while its disk was migrated and should start. GRUB
//! therefore looks for a live mark (agent/disk writes it): a GRUB environment block at [`MARK_FILE`] of a disk that names
//! this machine's SMBIOS UUID and a time that is not over. Then the highlighted entry is "start the migrated disk", and it
//! is taken when nobody presses a key; a key followed by Enter leads to the appliance, and so does everything that is
//! missing or doubtful: no clock, no UUID, no mark.
//!
//! Which entry a countdown took and which a person took looks the same to GRUB, but for one trace: a key deletes the
//! variable `fallback` (grub-core/normal/menu.c, run_menu). The hand-over entry starts the disk only while it is there.
//! The variable also does its own work: a disk that cannot be started is followed by the appliance.
//!
//! Time comes from `datehook`. It is part of the BIOS image. Debian's signed UEFI image has it not, so it is loaded from
//! the medium, which works unless Secure Boot is in force; then there is no time, no mark counts, and BootNext alone
//! (set by the target, tried by the firmware before any medium) hands over.

use crate::baked::{Baked, HandOver};

/// The mark as GRUB reads it: two sectors of 512 bytes at 1 MiB - 4096, whatever the disk's own sectors are.
const MARK_FILE: &str = "2040+2";
/// Disks that are looked at.
const DISKS: u32 = 16;
/// Partitions of a disk that are searched for a boot loader on UEFI.
const PARTITIONS: u32 = 16;
/// Seconds a person has to press a key.
const COUNTDOWN: u32 = 4;

/// Where kernel and initramfs lie on a kind of medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// On the ISO, below `/live`.
    Iso,
    /// At the top of the TFTP tree.
    Net,
}

impl Medium {
    fn directory(self) -> &'static str {
        match self {
            Medium::Iso => "/live",
            Medium::Net => "",
        }
    }
}

/// The text of `grub.cfg`.
pub fn menu(medium: Medium, baked: &Baked) -> String {
    let mut text = head(baked.arguments());
    match baked.hand_over() {
        HandOver::Never => text.push_str("# Made for a source: no disk is ever started.\n"),
        HandOver::AnyJob => text.push_str(&marks("")),
        HandOver::Job(tag) => text.push_str(&marks(&format!(" -a \"$gantry_job\" = {tag}"))),
    }
    text.push_str(&entries(medium));
    text
}

fn head(arguments: &str) -> String {
    format!(
        "# Written by gantry image; docs/appliance.md says what it does.\n\
         # The appliance's arguments. With gantry.role=send among them no disk is ever started.\n\
         set gantry_arguments='{arguments}'\n\
         export gantry_arguments\n\
         set timeout={COUNTDOWN}\n\
         set default=appliance\n\
         set gantry_disk=\n\
         # The firmware of UEFI machines leads its console to serial lines by itself.\n\
         if [ \"$grub_platform\" = pc ]; then\n\
         \x20 if serial --unit=0 --speed=115200; then\n\
         \x20   terminal_input console serial\n\
         \x20   terminal_output console serial\n\
         \x20 fi\n\
         fi\n"
    )
}

/// Finds the first disk with a live mark. `job` is a further condition on it.
fn marks(job: &str) -> String {
    let disks: Vec<String> = (0..DISKS).map(|disk| disk.to_string()).collect();
    format!(
        "set gantry_time=\n\
         if regexp '(^| )gantry\\.role=send( |$)' \"$gantry_arguments\"; then\n\
         \x20 true\n\
         elif [ \"$grub_platform\" = pc ]; then\n\
         \x20 set gantry_time=yes\n\
         elif [ \"$lockdown\" != y ]; then\n\
         \x20 if insmod datehook; then set gantry_time=yes; fi\n\
         fi\n\
         set gantry_here=\n\
         if smbios --type 1 --get-uuid 8 --set gantry_here; then true; fi\n\
         # A UUID of zeros or ones is that of every machine without one.\n\
         if regexp '^(00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$' \"$gantry_here\"; then\n\
         \x20 set gantry_here=\n\
         fi\n\
         if [ \"$gantry_time\" = yes -a -n \"$gantry_here\" ]; then\n\
         \x20 set gantry_today=\"$YEAR-$MONTH-$DAY\"\n\
         \x20 set gantry_now=\"$HOUR\"\n\
         \x20 for n in {disks}; do\n\
         \x20   if [ -z \"$gantry_disk\" ]; then\n\
         \x20     set gantry_mark=; set gantry_uuid=; set gantry_job=; set gantry_day1=; set gantry_day2=; set gantry_hour=\n\
         \x20     if load_env --file \"(hd$n){MARK_FILE}\" gantry_mark gantry_uuid gantry_job gantry_day1 gantry_day2 gantry_hour; then\n\
         \x20       if [ \"$gantry_mark\" = 1 -a \"$gantry_uuid\" = \"$gantry_here\"{job} ]; then\n\
         \x20         if [ \"$gantry_day1\" = \"$gantry_today\" ]; then\n\
         \x20           set gantry_disk=\"hd$n\"\n\
         \x20         elif [ \"$gantry_day2\" = \"$gantry_today\" -a \"$gantry_now\" -lt \"$gantry_hour\" ]; then\n\
         \x20           set gantry_disk=\"hd$n\"\n\
         \x20         fi\n\
         \x20       fi\n\
         \x20     fi\n\
         \x20   fi\n\
         \x20 done\n\
         fi\n",
        disks = disks.join(" ")
    )
}

fn entries(medium: Medium) -> String {
    let directory = medium.directory();
    let numbers: Vec<String> = (1..=PARTITIONS).map(|number| number.to_string()).collect();
    let partitions: Vec<String> = numbers
        .iter()
        .map(|number| format!("gpt{number}"))
        .chain((1..=4).map(|number| format!("msdos{number}")))
        .collect();
    format!(
        "function gantry_appliance {{\n\
         \x20 echo 'Gantry: loading the appliance'\n\
         \x20 linux {directory}/vmlinuz console=tty0 console=ttyS0,115200 $gantry_arguments\n\
         \x20 initrd {directory}/initrd\n\
         }}\n\
         function gantry_start {{\n\
         \x20 echo \"Gantry: starting the migrated disk $gantry_disk\"\n\
         \x20 if [ \"$grub_platform\" = pc ]; then\n\
         \x20   if [ \"$gantry_disk\" != hd0 ]; then drivemap -s hd0 \"$gantry_disk\"; fi\n\
         \x20   set root=\"$gantry_disk\"\n\
         \x20   chainloader +1\n\
         \x20 else\n\
         \x20   set gantry_loader=\n\
         \x20   for file in /EFI/debian/shimx64.efi /EFI/BOOT/BOOTX64.EFI; do\n\
         \x20     for part in {partitions}; do\n\
         \x20       if [ -z \"$gantry_loader\" -a -f \"($gantry_disk,$part)$file\" ]; then\n\
         \x20         set gantry_loader=\"($gantry_disk,$part)$file\"\n\
         \x20         set root=\"$gantry_disk,$part\"\n\
         \x20       fi\n\
         \x20     done\n\
         \x20   done\n\
         \x20   chainloader \"$gantry_loader\"\n\
         \x20 fi\n\
         }}\n\
         menuentry 'Gantry appliance' --id appliance {{\n\
         \x20 gantry_appliance\n\
         }}\n\
         if [ -n \"$gantry_disk\" ]; then\n\
         \x20 set default=handover\n\
         \x20 set fallback=0\n\
         \x20 export gantry_disk fallback\n\
         \x20 menuentry 'The migrated disk starts by itself (a key, then Enter: appliance)' --id handover {{\n\
         \x20   if [ -n \"$fallback\" ]; then gantry_start; else gantry_appliance; fi\n\
         \x20 }}\n\
         \x20 menuentry 'Start the migrated disk now' --id disk {{\n\
         \x20   gantry_start\n\
         \x20 }}\n\
         fi\n",
        partitions = partitions.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn text(medium: Medium, arguments: &str) -> String {
        menu(medium, &Baked::new(arguments).unwrap())
    }

    #[test]
    fn a_medium_for_sources_never_looks_for_marks() {
        let menu = text(Medium::Iso, "gantry.role=send");
        assert!(!menu.contains("load_env") && menu.contains("gantry.role=send"));
    }

    /// Somebody writes the role into the menu of a medium that was made without one.
    #[test]
    fn the_role_that_the_kernel_gets_is_the_one_that_the_menu_obeys() {
        let menu = text(Medium::Net, "");
        let (set, look) = (menu.find("set gantry_arguments=''\n").unwrap(), menu.find("load_env").unwrap());
        let asked = menu.find("if regexp '(^| )gantry\\.role=send( |$)' \"$gantry_arguments\"").unwrap();
        assert!(set < asked && asked < look, "{menu}");
        assert_eq!(menu.matches("vmlinuz").count(), menu.matches("ttyS0,115200 $gantry_arguments\n").count());
    }

    #[test]
    fn a_baked_code_admits_only_its_own_job() {
        let menu = text(Medium::Iso, "gantry.role=receive gantry.code=BCDEFGHJKLNPRSTXBCDE");
        let condition = menu.lines().find(|line| line.contains("gantry_mark\" = 1")).unwrap();
        assert!(condition.contains("-a \"$gantry_job\" = "), "{condition}");
        assert!(!text(Medium::Iso, "").contains("-a \"$gantry_job\""));
    }

    #[test]
    fn paths_are_those_of_the_medium() {
        assert!(text(Medium::Iso, "").contains("linux /live/vmlinuz console="));
        assert!(text(Medium::Net, "quiet").contains("linux /vmlinuz console=tty0 console="));
        assert!(text(Medium::Net, "quiet").contains("set gantry_arguments='quiet'\n"));
    }

    /// GRUB's own parser is the judge. It checks grammar only, so a fault is planted to see that it does.
    #[test]
    fn grub_understands_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("grub.cfg");
        for (spoil, expected) in [("", true), ("if true; then\n", false)] {
            for arguments in ["", "gantry.role=send", "gantry.role=receive gantry.code=BCDEFGHJKLNPRSTXBCDE"]
            {
                std::fs::write(&file, format!("{}{spoil}", text(Medium::Iso, arguments))).unwrap();
                let judged = Command::new("grub-script-check").arg(&file).output();
                let judged = judged.expect("grub-common is among the packages of scripts/setup");
                assert_eq!(judged.status.success(), expected, "{arguments}: {judged:?}");
            }
        }
    }
}
