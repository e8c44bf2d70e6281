//! The error that trying again does not cure.

/// This end cannot go on before a person has changed something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Stop(pub String);
