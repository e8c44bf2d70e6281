//! /etc/fstab.

/// One line that names a filesystem or swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// First field as written.
    pub spec: &'a str,
    /// Mount point, with `\040` and its kind left as they are; `none` for swap.
    pub at: &'a str,
    /// Filesystem type.
    pub kind: &'a str,
    /// Options as written.
    pub options: &'a str,
}

impl Entry<'_> {
    /// Whether the option is among its options.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }

    /// Whether the system waits for it at start and stops in emergency mode when it does not come.
    pub fn is_awaited(&self) -> bool {
        !self.has_option("noauto") && !self.has_option("nofail")
    }
}

/// All entries.
pub fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(entry)
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.split_ascii_whitespace();
    let entry = Entry {
        spec: fields.next()?,
        at: fields.next()?,
        kind: fields.next()?,
        options: fields.next().unwrap_or("defaults"),
    };
    Some(entry)
}

/// Rewrites specs and options: `change` gives the new spec and options of an entry, or `None` to leave it.
pub fn rewrite(text: &str, mut change: impl FnMut(Entry<'_>) -> Option<(String, String)>) -> String {
    text.split_inclusive('\n')
        .map(|line| match entry(line) {
            Some(old) => match change(old) {
                Some((spec, options)) => replace(line, old, &spec, &options),
                None => line.to_string(),
            },
            None => line.to_string(),
        })
        .collect()
}

fn replace(line: &str, old: Entry<'_>, spec: &str, options: &str) -> String {
    let mut new = line.replacen(old.spec, spec, 1);
    if options != old.options {
        // The options are the fourth field: search behind the third, so that a mount point that reads alike stays.
        let after_spec = new.find(spec).map_or(0, |i| i + spec.len());
        let mut rest = after_spec;
        for field in [old.at, old.kind] {
            rest += new[rest..].find(field).map_or(0, |i| i + field.len());
        }
        if let Some(at) = new[rest..].find(old.options) {
            new.replace_range(rest + at..rest + at + old.options.len(), options);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# by hand\n/dev/sda1  /  ext4\terrors=remount-ro 0 1\n/dev/sda5 none swap sw 0 0\n\nproc /proc proc defaults 0 0";

    #[test]
    fn reads_entries() {
        let all: Vec<_> = entries(TEXT).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], Entry { spec: "/dev/sda1", at: "/", kind: "ext4", options: "errors=remount-ro" });
        assert!(all[1].is_awaited());
    }

    #[test]
    fn rewrites_only_what_changes() {
        let new = rewrite(TEXT, |e| {
            (e.kind == "swap").then(|| (String::from("UUID=x"), format!("{},nofail", e.options)))
        });
        assert_eq!(new, TEXT.replace("/dev/sda5 none swap sw", "UUID=x none swap sw,nofail"));
    }

    #[test]
    fn an_option_that_reads_like_a_mount_point_is_found() {
        let new = rewrite("/dev/sdb1 /sw ext4 sw 0 0\n", |_| Some(("UUID=1".into(), "sw,nofail".into())));
        assert_eq!(new, "UUID=1 /sw ext4 sw,nofail 0 0\n");
    }
}
