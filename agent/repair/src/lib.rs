//! Makes a replica boot on its new hardware: inspect, plan, apply, check.

pub mod config;
pub mod drivers;
pub mod edit;
pub mod error;
pub mod facts;
pub mod names;
pub mod network;
pub mod rules;
#[cfg(test)]
mod testing;
