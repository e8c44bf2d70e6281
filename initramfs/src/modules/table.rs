//! The module table: what the composer writes and PID 1 reads.
//!
//! A text file, one fact a line, because a person in an emergency shell may have to read it:
//!
//! ```text
//! gantry-modules 1 6.12.0+deb12-amd64
//! module ext4 kernel/fs/ext4/ext4.ko.xz jbd2 mbcache crc16 <crc32c_generic
//! alias fs-ext4 ext4
//! builtin virtio_pci
//! ```
//!
//! Behind a module's path stand the modules it needs (all of them, also the needs of its needs), then with `<` those
//! that should be there before it and with `>` those that should follow it (soft dependencies; absent ones are left out
//! by the composer). Paths are relative to `/usr/lib/modules/RELEASE`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::pattern::matches;

const MAGIC: &str = "gantry-modules";
const VERSION: &str = "1";

/// One module in the image. Names are [normal](normal_name).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// File, relative to the release's module directory.
    pub path: String,
    /// Modules that must be loaded before.
    pub needs: Vec<String>,
    /// Modules that should be loaded before, if they load at all.
    pub wants_before: Vec<String>,
    /// Modules that should be loaded after.
    pub wants_after: Vec<String>,
}

/// Everything PID 1 knows about modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The kernel release, as in `uname -r`.
    pub release: String,
    /// Modules by normal name.
    pub modules: BTreeMap<String, Module>,
    /// (pattern, module) pairs.
    pub aliases: BTreeSet<(String, String)>,
    /// Names of what is compiled into the kernel.
    pub builtin: BTreeSet<String>,
}

/// A table that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// The first line is not that of a table of this version.
    #[error("not a module table of version {VERSION}")]
    Header,
    /// A line that cannot be understood.
    #[error("line {0} of the module table cannot be understood")]
    Line(usize),
}

/// The name by which a module is known: `-` becomes `_`, as the kernel has it in `/sys/module`.
pub fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

impl Table {
    /// The table as text; the same table gives the same bytes.
    pub fn encode(&self) -> String {
        let mut text = format!("{MAGIC} {VERSION} {}\n", self.release);
        for (name, module) in &self.modules {
            // Writing to a String cannot fail.
            let _ = write!(text, "module {name} {}", module.path);
            let before = module.wants_before.iter().map(|name| format!(" <{name}"));
            let after = module.wants_after.iter().map(|name| format!(" >{name}"));
            let needs = module.needs.iter().map(|name| format!(" {name}"));
            text.extend(needs.chain(before).chain(after));
            text.push('\n');
        }
        for (pattern, name) in &self.aliases {
            let _ = writeln!(text, "alias {pattern} {name}");
        }
        for name in &self.builtin {
            let _ = writeln!(text, "builtin {name}");
        }
        text
    }

    /// Reads what [`Table::encode`] wrote.
    pub fn decode(text: &str) -> Result<Table, TableError> {
        let mut lines = text.lines().enumerate();
        let header: Vec<&str> = lines.next().map(|(_, line)| line.split(' ').collect()).unwrap_or_default();
        let [MAGIC, VERSION, release] = header[..] else { return Err(TableError::Header) };
        let mut table = Table { release: release.to_owned(), ..Table::default() };
        for (number, line) in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["module", name, path, ref others @ ..] => {
                    let mut module = Module { path: path.to_owned(), ..Module::default() };
                    for other in others {
                        match (other.strip_prefix('<'), other.strip_prefix('>')) {
                            (Some(name), _) => module.wants_before.push(name.to_owned()),
                            (_, Some(name)) => module.wants_after.push(name.to_owned()),
                            _ => module.needs.push((*other).to_owned()),
                        }
                    }
                    table.modules.insert(name.to_owned(), module);
                }
                ["alias", pattern, name] => {
                    table.aliases.insert((pattern.to_owned(), name.to_owned()));
                }
                ["builtin", name] => {
                    table.builtin.insert(name.to_owned());
                }
                _ => return Err(TableError::Line(number + 1)),
            }
        }
        Ok(table)
    }

    /// The modules that `wanted` stands for: itself if it is a module's name, else all whose alias matches.
    ///
    /// Several modules may claim one device; all are loaded and the kernel binds the first that accepts it. What is
    /// built in gives nothing.
    pub fn resolve(&self, wanted: &str) -> Vec<&str> {
        let name = normal_name(wanted);
        if let Some((name, _)) = self.modules.get_key_value(&name) {
            return vec![name];
        }
        if self.builtin.contains(&name) {
            return Vec::new();
        }
        // Aliases are sorted, and all share their kind ("pci:", "acpi*:", "fs-") literally with what they match.
        let kind = wanted.split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or("");
        let mut found: Vec<&str> = self
            .aliases
            .range((kind.to_owned(), String::new())..)
            .take_while(|(pattern, _)| pattern.starts_with(kind))
            .filter(|(pattern, _)| matches(pattern, wanted))
            .map(|(_, name)| name.as_str())
            .collect();
        found.dedup();
        found
    }

    /// Whether `wanted` names something that is compiled into the kernel.
    pub fn is_builtin(&self, wanted: &str) -> bool {
        self.builtin.contains(&normal_name(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "gantry-modules 1 6.12.0-test\n\
        module ahci kernel/drivers/ata/ahci.ko.xz libahci libata scsi_mod\n\
        module crc32c_generic kernel/crypto/crc32c_generic.ko.xz\n\
        module ext4 kernel/fs/ext4/ext4.ko.xz jbd2 mbcache <crc32c_generic\n\
        module mptbase kernel/drivers/message/fusion/mptbase.ko.xz >mptscsih\n\
        alias crypto-crc32c crc32c_generic\n\
        alias fs-ext4 ext4\n\
        alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
        builtin virtio_pci\n";

    #[test]
    fn text_survives_decoding_and_encoding() {
        assert_eq!(Table::decode(TEXT).unwrap().encode(), TEXT);
    }

    #[test]
    fn names_and_aliases_are_resolved() {
        let table = Table::decode(TEXT).unwrap();
        for (wanted, expected) in [
            ("ext4", vec!["ext4"]),
            ("fs-ext4", vec!["ext4"]),
            ("crc32c-generic", vec!["crc32c_generic"]),
            ("crypto-crc32c", vec!["crc32c_generic"]),
            ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", vec!["ahci"]),
            ("pci:v00008086d00002922sv00001AF4sd00001100bc02sc00i00", vec![]),
            ("virtio-pci", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(table.resolve(wanted), expected, "{wanted}");
        }
        assert!(table.is_builtin("virtio-pci") && !table.is_builtin("ahci"));
    }

    #[test]
    fn soft_dependencies_keep_their_side() {
        let table = Table::decode(TEXT).unwrap();
        assert_eq!(table.modules["ext4"].needs, ["jbd2", "mbcache"]);
        assert_eq!(table.modules["ext4"].wants_before, ["crc32c_generic"]);
        assert_eq!(table.modules["mptbase"].wants_after, ["mptscsih"]);
    }

    #[test]
    fn a_broken_table_is_an_error_with_its_line() {
        assert_eq!(Table::decode(""), Err(TableError::Header));
        assert_eq!(Table::decode("gantry-modules 2 6.12\n"), Err(TableError::Header));
        assert_eq!(Table::decode("gantry-modules 1 6.12\nalias only-two\n"), Err(TableError::Line(2)));
    }
}
