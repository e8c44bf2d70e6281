//! What an ELF file needs to run, and where in Debian's packages that is.
//!
//! Debian's rule makes this simple: the package of a program names, among its direct dependencies, the packages of all
//! libraries that its files are linked to. So a library that is missing is looked for in those of the package that needs it whose names
//! contain "lib" (zlib1g is why they need not begin with it), and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use super::packages::Packages;

/// Where Debian keeps libraries, relative to a package's tree.
const PLACES: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "lib64"];

/// Names of the libraries and of the loader that an ELF file asks for. Empty for static files and for what is no ELF.
pub fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let header = elf::FileHeader64::<Endianness>::parse(bytes).context("reading an ELF header")?;
    let endian = header.endian().context("reading an ELF header")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut names = Vec::new();
    let segments = header.program_headers(endian, bytes).context("reading ELF segments")?;
    for segment in segments {
        if let Some(interpreter) =
            segment.interpreter(endian, bytes).context("reading the name of an ELF loader")?
        {
            names.extend(
                Path::new(&text(interpreter)).file_name().map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    let sections = header.sections(endian, bytes).context("reading ELF sections")?;
    if let Some((entries, strings)) = sections.dynamic(endian, bytes).context("reading ELF needs")? {
        let strings = sections.strings(endian, bytes, strings).context("reading ELF names")?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
            names.push(text(entry.string(endian, strings).context("reading an ELF name")?));
        }
    }
    Ok(names)
}

/// All libraries that the given files need, also indirectly: name -> file.
///
/// `files` are pairs of a package's name and a file of it. Errors: a library that no dependency of its user provides.
pub fn closure(packages: &Packages, files: &[(String, PathBuf)]) -> Result<BTreeMap<String, PathBuf>> {
    close(files, |package, library| {
        for candidate in packages.find(package)?.depends.iter().filter(|name| name.contains("lib")) {
            let tree = packages.tree(candidate)?;
            if let Some(file) =
                PLACES.iter().map(|place| tree.join(place).join(library)).find(|file| file.exists())
            {
                return Ok(Some((candidate.clone(), file)));
            }
        }
        // A library may lie in the package that needs it.
        let tree = packages.tree(package)?;
        let own = PLACES.iter().map(|place| tree.join(place).join(library)).find(|file| file.exists());
        Ok(own.map(|file| (package.to_owned(), file)))
    })
}

/// The walk itself; `provide` finds a library for a package.
fn close(
    files: &[(String, PathBuf)],
    provide: impl Fn(&str, &str) -> Result<Option<(String, PathBuf)>>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    let mut todo = files.to_vec();
    while let Some((package, file)) = todo.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        for library in needed(&bytes).with_context(|| format!("examining {}", file.display()))? {
            if found.contains_key(&library) {
                continue;
            }
            let Some((provider, path)) = provide(&package, &library)? else {
                bail!(
                    "{} of package {package} needs {library}, which none of its dependencies has",
                    file.display()
                );
            };
            found.insert(library, path.clone());
            todo.push((provider, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of this machine that is certainly linked dynamically.
    const PROGRAM: &str = "/bin/ls";

    #[test]
    fn needs_are_what_ldd_sees() {
        let names = needed(&std::fs::read(PROGRAM).unwrap()).unwrap();
        assert!(
            names.contains(&"libc.so.6".to_owned()) && names.contains(&"ld-linux-x86-64.so.2".to_owned()),
            "{names:?}"
        );
        assert_eq!(needed(b"#!/bin/sh\n").unwrap(), Vec::<String>::new());
        let ourselves = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needed(&ourselves).unwrap(), Vec::<String>::new(), "our own programs are static");
    }

    #[test]
    fn a_broken_file_is_an_error_and_no_panic() {
        let mut bytes = std::fs::read(PROGRAM).unwrap();
        bytes.truncate(1000);
        assert!(needed(&bytes).is_err());
        assert!(needed(b"\x7fELF").is_err());
    }

    #[test]
    fn a_library_that_nobody_has_is_an_error_that_names_it() {
        let error =
            close(&[("coreutils".to_owned(), PROGRAM.into())], |_, _| Ok(None)).unwrap_err().to_string();
        assert!(error.contains("/bin/ls of package coreutils needs"), "{error}");
    }

    #[test]
    fn libraries_of_libraries_are_found() {
        let place = Path::new("/lib/x86_64-linux-gnu");
        let found = close(&[("coreutils".to_owned(), PROGRAM.into())], |_, library| {
            Ok(Some(("libx".to_owned(), place.join(library))))
        });
        // ls needs libselinux, which needs libpcre2: two steps.
        let found = found.unwrap();
        assert!(found.keys().any(|name| name.starts_with("libpcre2")), "{found:?}");
    }
}
