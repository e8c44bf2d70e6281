//! Random bytes from the kernel.

use anyhow::{Context, Result};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("asking the kernel for random bytes")?;
    Ok(bytes)
}
