//! What a person, a boot loader or a guest's files say.

use gantry_initramfs::pid1::cmdline as kernel_line;
use gantry_repair::config::{fstab, grub, ini, interfaces, shell};
use gantry_repair::plan::Plan;
use gantry_wire::Code;

/// A pairing code as it is typed.
pub fn code(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(code) = Code::parse(&text) {
        assert_eq!(Code::parse(&code.reveal()).as_ref(), Ok(&code));
    }
}

/// The appliance's kernel line.
pub fn cmdline(bytes: &[u8]) {
    let (_, problems) = kernel_line::parse(&String::from_utf8_lossy(bytes));
    for problem in problems {
        assert!(!problem.is_empty());
    }
}

/// A guest's configuration. What is changed nowhere stays as it is.
pub fn config(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    for entry in fstab::entries(text) {
        let _ = (entry.is_awaited(), entry.has_option("noauto"));
    }
    assert_eq!(fstab::rewrite(text, |_| None), text);
    let _ = grub::root_arguments(text);
    assert_eq!(grub::rewrite_arguments(text, &["root"], |_, _| None), text);
    assert_eq!(grub::rewrite_words(text, &["root"], |_, _| None), text);
    let _ = grub::device(text);
    assert_eq!(grub::search_by_uuid(text, |_, _| None), text);
    let _ = grub::search_by_uuid(text, |_, _| Some("0-0".to_owned()));
    assert_eq!(ini::rewrite(text, |_| None), text);
    let _ = ini::values(text, "Match", "Name").count();
    let _ = (interfaces::physical_names(&[text]), interfaces::is_physical_name(text));
    let _ = (shell::value(text, "GRUB_DEVICE"), shell::comment_out(text, "GRUB_DEVICE"));
    assert_eq!(shell::rewrite(text, "GRUB_DEVICE", |_| None), text);
}

/// A kept repair plan.
pub fn plan(bytes: &[u8]) {
    let Ok(plan) = Plan::from_json(&String::from_utf8_lossy(bytes)) else { return };
    let _ = (plan.render(), plan.is_blocked(), plan.blockers(), plan.voids_hibernation());
}
