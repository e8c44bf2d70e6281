//! Files of shell assignments: /etc/default/grub, initramfs.conf, os-release.

/// The value of the last plain assignment of `name`, quotes removed; `None` when there is none.
pub fn value(text: &str, name: &str) -> Option<String> {
    text.lines().filter_map(|line| assignment(line, name)).next_back()
}

fn assignment(line: &str, name: &str) -> Option<String> {
    let line = line.trim_start().strip_prefix("export ").unwrap_or(line.trim_start());
    let value = line.strip_prefix(name)?.strip_prefix('=')?.trim_end();
    Some(match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default().to_string(),
        _ => value.split([' ', '\t', '#', ';']).next().unwrap_or_default().to_string(),
    })
}

/// Changes the value part of each assignment of `name` by `change`; `None` leaves it. Quotes and comments stay.
pub fn rewrite(text: &str, name: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    text.split_inclusive('\n')
        .map(|line| match assignment(line, name).and_then(|old| Some((change(&old)?, old))) {
            Some((new, old)) if !old.is_empty() => {
                let at = line.find('=').map_or(0, |i| i + 1);
                format!("{}{}", &line[..at], line[at..].replacen(&old, &new, 1))
            }
            _ => line.to_string(),
        })
        .collect()
}

/// Puts `#` before each assignment of `name`.
pub fn comment_out(text: &str, name: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| if assignment(line, name).is_some() { format!("#{line}") } else { line.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "GRUB_DEFAULT=0\n#GRUB_X=1\nGRUB_CMDLINE_LINUX=\"root=/dev/sda1 quiet\" # mine\nA='b c'\nGRUB_DEFAULT=saved\n";

    #[test]
    fn reads_values() {
        assert_eq!(value(TEXT, "GRUB_DEFAULT").as_deref(), Some("saved"));
        assert_eq!(value(TEXT, "GRUB_CMDLINE_LINUX").as_deref(), Some("root=/dev/sda1 quiet"));
        assert_eq!(value(TEXT, "A").as_deref(), Some("b c"));
        assert_eq!(value(TEXT, "GRUB_X"), None);
        assert_eq!(value(TEXT, "GRUB_DEF"), None);
    }

    #[test]
    fn changes_one_value() {
        let new = rewrite(TEXT, "GRUB_CMDLINE_LINUX", |v| Some(v.replace("/dev/sda1", "UUID=1")));
        assert_eq!(new, TEXT.replace("/dev/sda1", "UUID=1"));
        assert_eq!(comment_out(TEXT, "A"), TEXT.replace("A='b", "#A='b"));
    }
}
