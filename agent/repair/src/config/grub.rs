//! GRUB 2's grub.cfg: finding and changing device names without understanding the script.
//!
//! grub-mkconfig cannot be trusted to write it again in a chroot: it describes the machine it runs on (B-06). So single
//! words of `linux` and `set root` lines are changed and everything else stays.

/// Where Debian keeps it.
pub const CONFIG: &str = "/boot/grub/grub.cfg";

/// Whether the line loads a kernel.
fn is_linux_line(line: &str) -> bool {
    matches!(line.split_ascii_whitespace().next(), Some("linux" | "linux16" | "linuxefi"))
}

/// The values of all `root=` arguments, in order, each once.
pub fn root_arguments(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in text.lines().filter(|l| is_linux_line(l)).flat_map(str::split_ascii_whitespace) {
        if let Some(value) = word.strip_prefix("root=")
            && !found.iter().any(|f| f == value)
        {
            found.push(value.to_string());
        }
    }
    found
}

/// Changes the arguments `key=value` of kernel lines.
pub fn rewrite_arguments(
    text: &str,
    keys: &[&str],
    mut change: impl FnMut(&str, &str) -> Option<String>,
) -> String {
    text.split_inclusive('\n')
        .map(
            |line| {
                if is_linux_line(line) { rewrite_words(line, keys, &mut change) } else { line.to_string() }
            },
        )
        .collect()
}

/// Changes words `key=value` of a command line, keeping the white space between them.
pub fn rewrite_words(
    line: &str,
    keys: &[&str],
    mut change: impl FnMut(&str, &str) -> Option<String>,
) -> String {
    let mut out = String::with_capacity(line.len());
    for piece in line.split_inclusive([' ', '\t', '\n']) {
        let word = piece.trim_end();
        let new = word
            .split_once('=')
            .filter(|(key, _)| keys.contains(key))
            .and_then(|(key, value)| Some(format!("{key}={}", change(key, value)?)));
        match new {
            Some(new) => out.push_str(&piece.replacen(word, &new, 1)),
            None => out.push_str(piece),
        }
    }
    out
}

/// A GRUB device such as `hd0,msdos1`: (disk in firmware order, partition number).
pub fn device(name: &str) -> Option<(usize, u32)> {
    let (disk, partition) = name.trim_matches(['\'', '"', '(', ')']).split_once(',')?;
    let number: String = partition.chars().skip_while(|c| !c.is_ascii_digit()).collect();
    Some((disk.strip_prefix("hd")?.parse().ok()?, number.parse().ok()?))
}

/// Adds a `search --fs-uuid` behind each `set root='hdN,...'` that has none in the lines that follow, so that the
/// partition is found on whatever disk order the firmware has. `uuid` gives the filesystem UUID of a device.
pub fn search_by_uuid(text: &str, uuid: impl Fn(usize, u32) -> Option<String>) -> String {
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate() {
        out.push_str(line);
        let Some(name) = line.trim().strip_prefix("set root=") else { continue };
        let Some(uuid) = device(name).and_then(|(disk, number)| uuid(disk, number)) else { continue };
        let searched = lines[i + 1..].iter().take(4).any(|l| {
            let l = l.trim();
            l.starts_with("search ") && l.contains("--set=root")
        });
        if !searched {
            let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            out.push_str(&format!("{indent}search --no-floppy --fs-uuid --set=root {uuid}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "set root='hd0,msdos1'\nif x; then\n  search --no-floppy --fs-uuid --set=root u1\nfi\nmenuentry 'a' {\n\tset root='hd0,msdos1'\n\techo\n\tlinux\t/boot/vmlinuz root=/dev/sda1 ro  resume=/dev/sda5 quiet\n\tinitrd /boot/initrd.img\n}\n\n\n\n";

    #[test]
    fn finds_and_changes_root() {
        assert_eq!(root_arguments(TEXT), ["/dev/sda1"]);
        let new = rewrite_arguments(TEXT, &["root", "resume"], |k, _| Some(format!("UUID={k}")));
        let wanted = TEXT
            .replace("root=/dev/sda1", "root=UUID=root")
            .replace("resume=/dev/sda5", "resume=UUID=resume");
        assert_eq!(new, wanted);
    }

    #[test]
    fn a_bare_set_root_gets_a_search() {
        let new = search_by_uuid(TEXT, |disk, number| (disk == 0 && number == 1).then(|| "u1".into()));
        assert_eq!(
            new,
            TEXT.replace(
                "\tset root='hd0,msdos1'\n",
                "\tset root='hd0,msdos1'\n\tsearch --no-floppy --fs-uuid --set=root u1\n"
            )
        );
        assert_eq!(search_by_uuid(&new, |_, _| Some("u1".into())), new, "once is enough");
    }

    #[test]
    fn devices() {
        assert_eq!(device("'hd0,msdos1'"), Some((0, 1)));
        assert_eq!(device("hd1,gpt12"), Some((1, 12)));
        assert_eq!(device("'lvmid/x'"), None);
    }
}
