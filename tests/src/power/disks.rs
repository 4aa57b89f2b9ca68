//! File systems that can lose power.
//!
//! The ioctl takes `unsafe` from Rust, so a line of Perl, which every Debian has, makes it for all
//! file systems at a time.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Takes no place until it is written, and is more than any limit of a store asks for.
const IMAGE_BYTES: u64 = 4 << 30;
/// Ends processes and cuts power in the same moment: the arguments are files and process ids. The request is
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written.
///
/// The processes must not see anything of it: a sync that is under way in a file system that is shut down
/// may report success though its data is not there (seen with Linux 6.18), which nobody hears after a power
/// cut.
const CUT: &str = "my $how = pack('L', 2); my (@pids, @disks); \
                   for (@ARGV) { if (/^\\d+$/) { push @pids, $_; next } \
                   open(my $f, '<', $_) or die \"$_: $!\\n\"; push @disks, $f } \
                   kill 'KILL', @pids; \
                   for (@disks) { ioctl($_, 0x8004587d, $how) or die \"ioctl: $!\\n\"; }";
/// A process that was just killed may hold a file for a moment.
const UNMOUNT_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Written and synced before each cut: must be there after it.
const KEPT: &str = "kept";
/// Written and not synced before each cut: must not be there after it.
const LOST: &str = "lost";
const LOST_BYTES: usize = 64 << 10;

/// Some of them, by name. Dropping it unmounts all and removes everything.
pub struct Disks {
    disks: Vec<Disk>,
    // Last: nothing is mounted there any more.
    dir: tempfile::TempDir,
}

struct Disk {
    name: String,
    image: PathBuf,
    mount: PathBuf,
}

impl Disks {
    /// Makes and mounts one file system a name, with an empty folder `data` of that name each.
    /// Images lie in `place`, or where temporary files do.
    ///
    /// # Errors
    /// What the machine does not allow, in words.
    pub fn create(names: &[String], place: Option<&Path>) -> Result<Disks, String> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("flotilla-disks-");
        let dir = match place {
            Some(place) => builder.tempdir_in(place),
            None => builder.tempdir(),
        };
        let dir = dir.map_err(|e| format!("a folder for images: {e}"))?;
        let mut disks = Disks { disks: Vec::new(), dir };
        fs::create_dir(disks.data()).map_err(|e| format!("a folder: {e}"))?;
        for name in names {
            let disk = Disk::create(disks.dir.path(), &disks.data(), name)?;
            disks.disks.push(disk);
        }
        Ok(disks)
    }

    /// The folder with one folder a name, which lies on that name's file system.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Cuts the power of the named ones and ends the processes `pids`, number `cut` of the run: nothing that
    /// was not synced lasts.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn cut(&self, names: &[String], pids: &[u32], cut: u64) -> Result<(), String> {
        let disks: Vec<&Disk> = self.named(names).collect();
        for disk in &disks {
            disk.mark(cut).map_err(|e| format!("{}: marking: {e}", disk.name))?;
        }
        let mut perl = Command::new("perl");
        perl.args(["-e", CUT]).args(disks.iter().map(|disk| disk.mount.join(KEPT)));
        perl.args(pids.iter().map(u32::to_string));
        run(&mut perl)
    }

    /// Brings the named ones back after the cut of that number; their users are gone.
    ///
    /// # Errors
    /// When one cannot be unmounted or mounted, or the cut did not do what cuts do.
    pub fn restore(&self, names: &[String], cut: u64) -> Result<(), String> {
        for disk in self.named(names) {
            disk.unmount()?;
            disk.mount()?;
            disk.check_mark(cut)?;
        }
        Ok(())
    }

    fn named<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a Disk> {
        self.disks.iter().filter(|disk| names.contains(&disk.name))
    }
}

impl Disk {
    fn create(dir: &Path, data: &Path, name: &str) -> Result<Disk, String> {
        let image = dir.join(format!("{name}.img"));
        let mount = dir.join(format!("{name}.mount"));
        let disk = Disk { name: name.to_owned(), image, mount };
        let made = File::create(&disk.image).and_then(|file| file.set_len(IMAGE_BYTES));
        made.map_err(|e| format!("{}: {e}", disk.image.display()))?;
        fs::create_dir(&disk.mount).map_err(|e| format!("{}: {e}", disk.mount.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        let folder = disk.mount.join("data");
        let linked = fs::create_dir(&folder)
            .and_then(|()| File::open(&disk.mount)?.sync_all())
            .and_then(|()| std::os::unix::fs::symlink(&folder, data.join(name)));
        linked.map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop,noatime"]).args([&self.image, &self.mount]))
    }

    fn unmount(&self) -> Result<(), String> {
        let deadline = Instant::now() + UNMOUNT_MAX;
        loop {
            match run(Command::new("umount").arg(&self.mount)) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let place = self.mount.canonicalize().unwrap_or_default().display().to_string();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(&place))
    }

    fn mark(&self, cut: u64) -> std::io::Result<()> {
        let mut kept = File::create(self.mount.join(KEPT))?;
        kept.write_all(cut.to_string().as_bytes())?;
        kept.sync_all()?;
        File::open(&self.mount)?.sync_all()?;
        File::create(self.mount.join(LOST))?.write_all(&[b'x'; LOST_BYTES])
    }

    fn check_mark(&self, cut: u64) -> Result<(), String> {
        let kept = fs::read_to_string(self.mount.join(KEPT)).unwrap_or_default();
        if kept != cut.to_string() {
            let name = &self.name;
            return Err(format!("{name}: {KEPT:?} holds {kept:?}, synced was {cut}: a bad disk"));
        }
        match fs::read(self.mount.join(LOST)) {
            Ok(content) if !content.is_empty() => {
                Err(format!("{}: cut {cut} lost nothing: no power cut", self.name))
            }
            // The name may have reached the journal with somebody else's sync.
            Ok(_) => fs::remove_file(self.mount.join(LOST)).map_err(|e| format!("{LOST}: {e}")),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted()
            && let Err(error) = self.unmount()
        {
            eprintln!("{error}");
        }
    }
}

/// Whether this machine can do it: one cut of one file system, from beginning to end.
///
/// # Errors
/// Why not.
pub fn probe(place: Option<&Path>) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting takes root".to_owned());
    }
    let names = ["probe".to_owned()];
    let disks = Disks::create(&names, place)?;
    disks.cut(&names, &[], 0)?;
    disks.restore(&names, 0)
}

/// Runs a tool of the system; its words when it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {} ({})", text.trim().replace('\n', "; "), output.status))
}
