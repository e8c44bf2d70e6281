//! Boot media from kernel and initramfs: hybrid ISO, USB, PXE tree.
