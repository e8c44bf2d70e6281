//! The first process of the appliance.

use std::process::ExitCode;

/// Runs the appliance; returns only if it cannot even start.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
