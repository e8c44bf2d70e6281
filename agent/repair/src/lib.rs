//! Makes a replica boot on its new hardware: inspect, plan, apply, check.
