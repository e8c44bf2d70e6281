//! systemd's unit-like files: .network, .link, .netdev.

/// A `Key=value` line with the section it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting<'a> {
    /// Section without brackets.
    pub section: &'a str,
    /// Key.
    pub key: &'a str,
    /// Value, trimmed.
    pub value: &'a str,
}

/// All settings in order; comments and lines that are none are passed over.
pub fn settings(text: &str) -> impl Iterator<Item = Setting<'_>> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            return None;
        }
        if line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some(Setting { section, key: key.trim(), value: value.trim() })
    })
}

/// All values of a key in a section, split at white space.
pub fn values<'a>(text: &'a str, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    settings(text)
        .filter(move |s| s.section == section && s.key == key)
        .flat_map(|s| s.value.split_ascii_whitespace())
}

/// Gives each setting's line to `change`; a new line replaces it, `None` leaves it.
pub fn rewrite(text: &str, mut change: impl FnMut(Setting<'_>) -> Option<String>) -> String {
    let mut section = String::new();
    text.split_inclusive('\n')
        .map(|line| {
            let bare = line.trim();
            if let Some(name) = bare.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_string();
            }
            let one = settings(bare).next().map(|s| Setting { section: &section, ..s });
            match one.and_then(&mut change) {
                Some(new) => format!("{new}{}", if line.ends_with('\n') { "\n" } else { "" }),
                None => line.to_string(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Match]\nName=enp0s2 enp0s3\n# MACAddress=x\n\n[Network]\nDHCP=yes\n[Match]\nMACAddress = 52:54:00:00:00:01\n";

    #[test]
    fn reads_by_section() {
        assert_eq!(values(TEXT, "Match", "Name").collect::<Vec<_>>(), ["enp0s2", "enp0s3"]);
        assert_eq!(values(TEXT, "Match", "MACAddress").collect::<Vec<_>>(), ["52:54:00:00:00:01"]);
        assert_eq!(values(TEXT, "Network", "Name").count(), 0);
    }

    #[test]
    fn rewrites_in_the_right_section() {
        let new = rewrite(TEXT, |s| {
            (s.section == "Match" && s.key == "MACAddress").then(|| "MACAddress=new".into())
        });
        assert_eq!(new, TEXT.replace("MACAddress = 52:54:00:00:00:01", "MACAddress=new"));
    }
}
