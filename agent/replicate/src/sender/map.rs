//! Which source disk goes onto which target disk: as told, or a proposal.

use anyhow::{Context, Result, bail, ensure};
use gantry_disk::size::human;
use gantry_wire::DiskInfo;

/// Pairs every source disk with a target disk. `wanted` names pairs by path or serial number; the rest is proposed: in
/// order, an unused target of the very size, else the first that is large enough.
pub fn pair(
    sources: &[DiskInfo],
    targets: &[DiskInfo],
    wanted: &[(String, String)],
) -> Result<Vec<(u16, u16)>> {
    let mut pairs: Vec<Option<usize>> = vec![None; sources.len()];
    for (source, target) in wanted {
        let s = find(sources, source).with_context(|| format!("--map: no source disk is called {source}"))?;
        let t = find(targets, target).with_context(|| {
            format!("--map: no target disk is called {target}; there are: {}", list(targets))
        })?;
        ensure!(!pairs.contains(&Some(t)), "--map: {target} is named twice");
        pairs[s] = Some(t);
    }
    for (s, source) in sources.iter().enumerate() {
        if let Some(t) = pairs[s] {
            if let Some(why) = unfit(source, &targets[t]) {
                bail!("{} cannot go onto {}: {why}", source.path, targets[t].path);
            }
            continue;
        }
        let free = |t: &usize| !pairs.contains(&Some(*t)) && unfit(source, &targets[*t]).is_none();
        let exact = (0..targets.len()).filter(free).find(|t| targets[*t].size == source.size);
        let Some(t) = exact.or_else(|| (0..targets.len()).find(free)) else {
            let reasons = targets.iter().enumerate().map(|(t, target)| {
                let why = match pairs.contains(&Some(t)) {
                    true => "already taken by another disk of this machine".to_owned(),
                    false => unfit(source, target).unwrap_or_default(),
                };
                format!("\n  {}: {why}", target.path)
            });
            bail!(
                "no target disk for {} ({} bytes){}",
                source.path,
                source.size,
                reasons.collect::<String>()
            );
        };
        pairs[s] = Some(t);
    }
    Ok(pairs.into_iter().flatten().enumerate().map(|(s, t)| (s as u16, t as u16)).collect())
}

fn find(disks: &[DiskInfo], name: &str) -> Option<usize> {
    disks.iter().position(|disk| disk.path == name || (!disk.serial.is_empty() && disk.serial == name))
}

fn unfit(source: &DiskInfo, target: &DiskInfo) -> Option<String> {
    if !target.refusal.is_empty() {
        Some(target.refusal.clone())
    } else if target.sector_size != source.sector_size {
        Some(format!("its sectors are {} bytes, the source's {}", target.sector_size, source.sector_size))
    } else if target.size < source.size {
        Some(format!("too small by {}: a larger disk is needed", human(source.size - target.size)))
    } else {
        None
    }
}

fn list(disks: &[DiskInfo]) -> String {
    let names: Vec<String> = disks.iter().map(|d| format!("{} (serial {})", d.path, d.serial)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, size: u64, sector_size: u32, refusal: &str) -> DiskInfo {
        let serial = format!("S{path}");
        DiskInfo {
            path: path.into(),
            serial,
            model: String::new(),
            size,
            sector_size,
            refusal: refusal.into(),
        }
    }

    #[test]
    fn disks_find_their_places() {
        let sources = [disk("a", 10, 512, ""), disk("b", 20, 512, "")];
        let targets = [disk("x", 30, 512, ""), disk("y", 20, 512, ""), disk("z", 10, 512, "carries ext4")];
        assert_eq!(pair(&sources, &targets, &[]).unwrap(), [(0, 0), (1, 1)]);
        let told = [("Sb".to_owned(), "x".to_owned())];
        assert_eq!(pair(&sources, &targets, &told).unwrap(), [(0, 1), (1, 0)]);
    }

    #[test]
    fn what_does_not_fit_is_said_for_each_disk() {
        let sources = [disk("a", 10, 512, "")];
        let targets = [disk("x", 5, 512, ""), disk("y", 20, 4096, ""), disk("z", 20, 512, "carries ext4")];
        let error = pair(&sources, &targets, &[]).unwrap_err().to_string();
        for part in [
            "x: too small by 5 B: a larger disk is needed",
            "y: its sectors are 4096 bytes, the source's 512",
            "z: carries ext4",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let told = [("a".to_owned(), "nowhere".to_owned())];
        assert!(
            pair(&sources, &targets, &told)
                .unwrap_err()
                .to_string()
                .contains("no target disk is called nowhere")
        );
    }
}
