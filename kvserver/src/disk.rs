//! The store's disks: looked at once a second, and told to the store, which refuses writes while they are
//! nearly full. Then the room that deleted records take is given back, one region after the other.
//!
//! Two threads, `disk` and `reclaim`: a look must not wait for a compaction.

use crate::PROGRAM;
use crate::kv::KvStateMachine;
use flotilla_raftstore::{DiskGauge, Store};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// See the module. Dropping it ends the threads: soon, if the state machine was closed.
pub struct DiskWatch {
    /// Closed to end them.
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskWatch {
    /// Looks at once, before anything is served, and from then on.
    pub fn start(
        gauge: DiskGauge,
        store: Store,
        machine: Arc<KvStateMachine>,
    ) -> io::Result<DiskWatch> {
        let (stop, stopped) = channel();
        // One wake-up waits at most.
        let (wake, woken) = sync_channel(1);
        let free = Arc::new(AtomicU64::new(0));
        let mut look = Look { gauge, store, free: Arc::clone(&free), wake, failed: false };
        look.once();
        let reclaims = move || reclaim(&machine, &free, &woken);
        let threads = vec![
            Builder::new().name("disk".to_owned()).spawn(move || look.run(&stopped))?,
            Builder::new().name("reclaim".to_owned()).spawn(reclaims)?,
        ];
        Ok(DiskWatch { stop: Some(stop), threads })
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

struct Look {
    gauge: DiskGauge,
    store: Store,
    /// Bytes on the shortest disk, while one is short.
    free: Arc<AtomicU64>,
    wake: SyncSender<()>,
    /// The last one found nothing out.
    failed: bool,
}

impl Look {
    fn run(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.once();
        }
    }

    fn once(&mut self) {
        match self.gauge.measure() {
            Ok(shortage) => {
                self.failed = false;
                self.store.set_disk(shortage);
                if let Some(shortage) = shortage {
                    self.free.store(shortage.free, Ordering::Relaxed);
                    // Full: a wake-up waits already.
                    let _ = self.wake.try_send(());
                }
            }
            Err(error) if !self.failed => {
                tracing::warn!(%error, "the room on the disk is not known");
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

fn reclaim(machine: &KvStateMachine, free: &AtomicU64, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        // A rewrite takes room before it gives any back; others need some meanwhile.
        let room = free.load(Ordering::Relaxed) / 2;
        if let Err(fatal) = machine.reclaim(room, Instant::now()) {
            PROGRAM.end_fatally(&fatal);
        }
    }
}
