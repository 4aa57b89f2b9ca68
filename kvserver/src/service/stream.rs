//! One client stream: many requests in flight, answers in any order.
//!
//! The stream is polled by its connection's task, which does everything in turn:
//! 1. frames came: check their requests, submit them in one call;
//! 2. outcomes came: the sink collected them and woke the task once for the burst; reads whose
//!    barrier was passed are done together, long scans on threads that may block;
//! 3. responses are there: pack as many as fit into a frame and hand it out.
//!
//! A client that does not read its answers is not polled, so nothing more is taken from it. When
//! it closes the stream, everything here is dropped and later outcomes go nowhere.

use super::Limits;
use super::core::{Core, Flight, Step};
use super::refuse::{error, refused};
use flotilla_client::pb;
use flotilla_client::pb::error::Kind;
use flotilla_raftstore::{Completion, Outcome, Outcomes, Reply};
use futures::task::AtomicWaker;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;

/// A response frame is closed before it grows beyond this.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Frames taken before anything else is done.
const FRAMES_TAKEN_MAX: usize = 64;

/// The answers to the requests of `inbound`, as frames.
pub fn serve<S>(
    core: Arc<Core>,
    limits: Limits,
    inbound: S,
) -> impl Stream<Item = Result<pb::ResponseFrame, Status>> + Send + 'static
where
    S: Stream<Item = Result<pb::RequestFrame, Status>> + Send + Unpin + 'static,
{
    let connection = Connection {
        core,
        limits,
        inbound: Some(inbound),
        sink: Arc::default(),
        flights: Flights::default(),
        responses: VecDeque::new(),
    };
    futures::stream::unfold(connection, |mut connection| async move {
        let frame = connection.next_frame().await?;
        Some((frame, connection))
    })
}

struct Connection<S> {
    core: Arc<Core>,
    limits: Limits,
    /// `None` once the client has sent its last frame.
    inbound: Option<S>,
    sink: Arc<Sink>,
    flights: Flights,
    responses: VecDeque<pb::Response>,
}

/// What woke a connection: everything that is there, so that it is handed on in one call.
#[derive(Default)]
struct Wake {
    events: Vec<Event>,
    frames: Vec<pb::RequestFrame>,
    end: Option<End>,
}

/// How the client's half of the stream ended.
enum End {
    Closed,
    Broken(Status),
}

impl<S> Connection<S>
where
    S: Stream<Item = Result<pb::RequestFrame, Status>> + Unpin,
{
    /// The next frame for the client; `None` when all is answered and nothing more will come.
    async fn next_frame(&mut self) -> Option<Result<pb::ResponseFrame, Status>> {
        loop {
            if !self.responses.is_empty() {
                return Some(Ok(self.pack()));
            }
            if self.inbound.is_none() && self.flights.count == 0 {
                return None;
            }
            let wake = self.wake().await;
            // Outcomes first: they free what frames take.
            self.take_events(wake.events);
            self.take_frames(wake.frames);
            match wake.end {
                Some(End::Broken(status)) => {
                    self.inbound = None;
                    self.flights = Flights::default();
                    self.responses.clear();
                    return Some(Err(status));
                }
                Some(End::Closed) => self.inbound = None,
                None => {}
            }
        }
    }

    /// Waits for outcomes or frames.
    async fn wake(&mut self) -> Wake {
        let (sink, inbound) = (&self.sink, &mut self.inbound);
        poll_fn(|context| {
            sink.waker.register(context.waker());
            let events = std::mem::take(&mut *sink.events.lock());
            let mut wake = Wake { events, ..Wake::default() };
            if let Some(inbound) = inbound {
                wake.take_ready(inbound, context);
            }
            if wake.is_empty() { Poll::Pending } else { Poll::Ready(wake) }
        })
        .await
    }

    fn take_frames(&mut self, frames: Vec<pb::RequestFrame>) {
        let mut requests = Vec::new();
        for request in frames.into_iter().flat_map(|frame| frame.requests) {
            let id = request.id;
            let prepared = self.admit().and_then(|()| self.core.prepare(request));
            match prepared {
                Ok(prepared) => {
                    let ticket = self.flights.next_ticket();
                    let reply = Reply::new(self.sink.clone(), ticket);
                    let (request, flight) = prepared.split(reply);
                    self.flights.insert(ticket, flight);
                    requests.push(request);
                }
                Err(error) => self.responses.push_back(refused(id, *error)),
            }
        }
        if !requests.is_empty() {
            self.core.store.submit(requests);
        }
    }

    fn admit(&self) -> Result<(), Box<pb::Error>> {
        let (flights, limits) = (&self.flights, &self.limits);
        let what = if flights.count >= limits.requests_max {
            format!("{} requests in flight, at most {}", flights.count, limits.requests_max)
        } else if flights.bytes >= limits.bytes_max {
            format!("{} bytes in flight, at most {}", flights.bytes, limits.bytes_max)
        } else {
            return Ok(());
        };
        Err(Box::new(error(Kind::Busy, format!("this stream has {what}"))))
    }

    fn take_events(&mut self, events: Vec<Event>) {
        let mut reads = Vec::new();
        for event in events {
            match event {
                Event::Outcome(ticket, outcome) => {
                    let flight = self.flights.remove(ticket);
                    match self.core.outcome(flight, outcome) {
                        Step::Done(response) => self.responses.push_back(response),
                        Step::Read(flight) if flight.blocks() => self.read_aside(flight),
                        Step::Read(flight) => reads.push(flight),
                    }
                }
                Event::Read(response) => {
                    self.flights.count -= 1;
                    self.responses.push_back(response);
                }
            }
        }
        let responses = &mut self.responses;
        self.core.read(reads, |response| responses.push_back(response));
    }

    /// Reads on a thread that may block; still counts as in flight.
    fn read_aside(&mut self, flight: Flight) {
        self.flights.count += 1;
        let (core, sink) = (self.core.clone(), self.sink.clone());
        tokio::task::spawn_blocking(move || {
            core.read(vec![flight], |response| sink.push(Event::Read(response)));
        });
    }

    fn pack(&mut self) -> pb::ResponseFrame {
        let mut responses = Vec::with_capacity(self.responses.len());
        let mut bytes = 0;
        while let Some(response) = self.responses.front() {
            bytes += response.encoded_len();
            if bytes > FRAME_BYTES_MAX && !responses.is_empty() {
                break;
            }
            responses.extend(self.responses.pop_front());
        }
        pb::ResponseFrame { responses }
    }
}

impl Wake {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.frames.is_empty() && self.end.is_none()
    }

    fn take_ready<S>(&mut self, inbound: &mut S, context: &mut Context<'_>)
    where
        S: Stream<Item = Result<pb::RequestFrame, Status>> + Unpin,
    {
        while self.frames.len() < FRAMES_TAKEN_MAX {
            match inbound.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(frame))) => self.frames.push(frame),
                Poll::Ready(Some(Err(status))) => {
                    self.end = Some(End::Broken(status));
                    return;
                }
                Poll::Ready(None) => {
                    self.end = Some(End::Closed);
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

enum Event {
    Outcome(u64, Outcome),
    Read(pb::Response),
}

/// Where the outcomes of all requests of a stream meet.
#[derive(Default)]
struct Sink {
    events: Mutex<Vec<Event>>,
    waker: AtomicWaker,
}

impl Sink {
    fn push(&self, event: Event) {
        self.extend(std::iter::once(event));
    }

    fn extend(&self, new: impl Iterator<Item = Event>) {
        let first = {
            let mut events = self.events.lock();
            let first = events.is_empty();
            events.extend(new);
            first
        };
        // Later ones of a burst find the task woken already.
        if first {
            self.waker.wake();
        }
    }
}

impl Completion for Sink {
    fn complete(&self, ticket: u64, outcome: Outcome) {
        self.push(Event::Outcome(ticket, outcome));
    }

    fn complete_all(&self, outcomes: &mut Outcomes) {
        self.extend(outcomes.drain(..).map(|(ticket, outcome)| Event::Outcome(ticket, outcome)));
    }
}

/// Requests in flight by ticket. A ticket is used again once it was answered.
#[derive(Default)]
struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    count: usize,
    bytes: usize,
}

impl Flights {
    fn next_ticket(&mut self) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        slot as u64
    }

    fn insert(&mut self, ticket: u64, flight: Flight) {
        self.count += 1;
        self.bytes += flight.bytes;
        self.slots[ticket as usize] = Some(flight);
    }

    fn remove(&mut self, ticket: u64) -> Flight {
        let slot = ticket as usize;
        let flight = self.slots[slot].take().expect("a ticket is completed exactly once");
        self.free.push(slot);
        self.count -= 1;
        self.bytes -= flight.bytes;
        flight
    }
}
