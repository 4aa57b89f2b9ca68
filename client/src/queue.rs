//! A queue from many callers to one task: items are put in singly or many at a time, and taken
//! all at once. The task is woken once a burst, by the first item: a wake-up costs more than an
//! item does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// The callers' end.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The task's end. Dropping it drops what is queued.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    waker: AtomicWaker,
}

struct State<T> {
    items: VecDeque<T>,
    /// No more items will come.
    finished: bool,
    receiver_gone: bool,
}

/// A queue without a limit: whoever puts in bounds it.
pub(crate) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), finished: false, receiver_gone: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), waker: AtomicWaker::new() });
    (Sender(shared.clone()), Receiver(shared))
}

// Not derived: items need not be cloned.
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Puts one in; gives it back when nobody takes any more.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.state.lock();
        if state.receiver_gone {
            return Err(item);
        }
        let first = state.items.is_empty();
        state.items.push_back(item);
        drop(state);
        self.wake(first);
        Ok(())
    }

    /// Puts all of `items` in, in their order; leaves them where they are when nobody takes any
    /// more.
    pub(crate) fn send_all(&self, items: &mut VecDeque<T>) {
        let mut state = self.0.state.lock();
        if state.receiver_gone || items.is_empty() {
            return;
        }
        let first = state.items.is_empty();
        move_all(items, &mut state.items);
        drop(state);
        self.wake(first);
    }

    /// Tells the receiver that no more will come.
    pub(crate) fn finish(&self) {
        self.0.state.lock().finished = true;
        self.wake(true);
    }

    /// Whether nobody takes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.state.lock().receiver_gone
    }

    fn wake(&self, first: bool) {
        if first {
            self.0.waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Takes everything, behind what `into` holds; `true` once no more will come and all is taken.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>, into: &mut VecDeque<T>) -> Poll<bool> {
        // Registered before looking: an item put in between wakes this task again.
        self.0.waker.register(cx.waker());
        let mut state = self.0.state.lock();
        if state.items.is_empty() {
            return if state.finished { Poll::Ready(true) } else { Poll::Pending };
        }
        move_all(&mut state.items, into);
        Poll::Ready(false)
    }

    /// [`poll_take`](Self::poll_take) as a future; dropping it loses nothing.
    pub(crate) fn take(&mut self, into: &mut VecDeque<T>) -> impl Future<Output = bool> {
        std::future::poll_fn(move |cx| self.poll_take(cx, into))
    }

    /// Takes what is there now, without waiting.
    pub(crate) fn take_now(&mut self, into: &mut VecDeque<T>) {
        move_all(&mut self.0.state.lock().items, into);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receiver_gone = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        // Outside the lock: dropping an item may look at this queue.
        drop(items);
    }
}

/// Without copying when there is nothing to append to.
fn move_all<T>(from: &mut VecDeque<T>, to: &mut VecDeque<T>) {
    if to.is_empty() {
        std::mem::swap(from, to);
    } else {
        to.append(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_come_in_order_and_the_end_after_them() {
        let (sender, mut receiver) = queue();
        assert!(sender.send(1).is_ok());
        sender.send_all(&mut VecDeque::from([2, 3]));
        sender.finish();
        let mut taken = VecDeque::from([0]);
        assert!(!receiver.take(&mut taken).await);
        assert_eq!(taken, [0, 1, 2, 3]);
        assert!(receiver.take(&mut taken).await);
    }

    #[tokio::test]
    async fn a_waiting_receiver_is_woken() {
        let (sender, mut receiver) = queue();
        let waiting = tokio::spawn(async move {
            let mut taken = VecDeque::new();
            receiver.take(&mut taken).await;
            taken
        });
        tokio::task::yield_now().await;
        assert!(sender.send(7).is_ok());
        assert_eq!(waiting.await.unwrap(), [7]);
    }

    #[test]
    fn nothing_is_taken_in_for_a_receiver_that_is_gone() {
        let (sender, receiver) = queue();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(1), Err(1));
        let mut items = VecDeque::from([2]);
        sender.send_all(&mut items);
        assert_eq!(items, [2]);
    }
}
