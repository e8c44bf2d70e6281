//! Starts, drives and observes QEMU machines.
