//! Real power cuts: a cluster whose processes have each a file system of their own, which loses power.
//!
//! 1. [`disks`]: one ext4 image a process, mounted through a loop device. Its shutdown ioctl ends
//!    all writing at once and drops what was not written, as a power cut does; mounting it again
//!    replays its journal.
//! 2. [`adds`]: unique keys, each written once, all of them read again and again.
//! 3. [`schedule`]: who is cut when, drawn from a seed.
//! 4. [`run`]: load, cut with kill -9 in the same moment, mount, start, and the judgement.
//!
//! Not simulated: a device that loses what it was given without a flush. What the kernel has written
//! of its own accord stays.

pub mod adds;
pub mod disks;
pub mod run;
pub mod schedule;
