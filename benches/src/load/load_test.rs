use super::*;
use crate::keys::KeyMode;
use crate::workload::Rpc;
use flotilla_client::Consistency;
use std::collections::VecDeque;

/// Answers each call a fixed time after it was made, except while it stands still.
struct Slow {
    submitted: VecDeque<(Instant, usize)>,
    delay: Duration,
    /// Nothing is answered between the two.
    pause: Option<(Instant, Instant)>,
    /// Answers from then on are refusals.
    fails_from: Option<Instant>,
}

impl Slow {
    fn new(delay: Duration) -> Self {
        Slow { submitted: VecDeque::new(), delay, pause: None, fails_from: None }
    }
}

impl Target for Slow {
    fn submit(&mut self, slot: usize, _: Call) {
        self.submitted.push_back((Instant::now() + self.delay, slot));
    }

    async fn wait(&mut self, ended: &mut Vec<Ended>) {
        let (mut due, _) = *self.submitted.front().expect("something is in flight");
        if let Some((from, to)) = self.pause
            && due >= from
        {
            due = due.max(to);
        }
        tokio::time::sleep_until(due.into()).await;
        let (_, slot) = self.submitted.pop_front().expect("it was there");
        let fails = self.fails_from.is_some_and(|from| from <= Instant::now());
        ended.push(Ended { slot, error: fails.then(|| "refused 17".to_owned()) });
    }
}

fn workload(rate: Option<f64>, in_flight: usize) -> Workload {
    Workload {
        clients: 1,
        batching: false,
        rpc: Rpc::Stream,
        write_percent: 50,
        consistency: Consistency::default(),
        key_bytes: 16,
        value_bytes: 16,
        keys: KeyMode::Spread(100),
        in_flight,
        rate,
        seconds: Duration::from_millis(600),
        warmup: Duration::from_millis(100),
    }
}

async fn measure(workload: &Workload, target: Slow) -> Measured {
    run(workload, vec![target], Keys::Spread(100), &[], |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_closed_loop_counts_answers_within_the_window() {
    let measured = measure(&workload(None, 1), Slow::new(Duration::from_millis(10))).await;
    assert!((30..=60).contains(&measured.ops), "{}", measured.ops);
    assert!(measured.latency_us.value_at_quantile(0.0) >= 9_900);
    assert_eq!((measured.errors, measured.took), (0, Duration::from_millis(600)));
}

#[tokio::test]
async fn an_open_loop_starts_what_is_due_whatever_the_answers_do() {
    let measured = measure(&workload(Some(500.0), 64), Slow::new(Duration::from_millis(10))).await;
    assert_eq!((measured.ops, measured.errors), (300, 0));
}

#[tokio::test]
async fn a_window_ends_with_what_it_waits_for() {
    let long = Workload { seconds: Duration::from_secs(60), ..workload(Some(500.0), 64) };
    let (began, wanted) = (Instant::now(), Duration::from_millis(400));
    let ended = tokio::time::sleep(wanted);
    let targets = vec![Slow::new(Duration::from_millis(10))];
    let measured = run_until(&long, targets, Keys::Spread(100), &[], ended).await.unwrap();
    // 100 ms of them were the warm-up.
    assert!((140..=250).contains(&measured.ops) && measured.errors == 0, "{}", measured.ops);
    assert!(measured.took < Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5));
}

/// Coordinated omission would report one slow operation here.
#[tokio::test]
async fn time_in_the_clients_own_queue_counts() {
    let mut slow = Slow::new(Duration::ZERO);
    let now = Instant::now();
    slow.pause = Some((now + Duration::from_millis(200), now + Duration::from_millis(500)));
    let measured = measure(&workload(Some(1000.0), 4), slow).await;
    assert_eq!((measured.ops, measured.errors), (600, 0));
    let stalled = measured.latency_us.count_between(50_000, 400_000);
    assert!(stalled >= 200, "starts due while nothing was answered waited: {stalled}");
    assert!(measured.latency_us.max() >= 250_000, "{}", measured.latency_us.max());
}

#[tokio::test]
async fn errors_are_no_results() {
    let mut slow = Slow::new(Duration::ZERO);
    slow.fails_from = Some(Instant::now());
    let measured = measure(&workload(None, 2), slow).await;
    assert_eq!(measured.ops, 0);
    assert!(measured.errors > 10 && measured.errors < 400, "{}", measured.errors);
    assert_eq!(measured.error_texts[0].0, "refused ##");
}

/// Without them a cluster that stands still would have fast answers and no errors.
#[tokio::test]
async fn what_hangs_or_fails_after_the_window_of_a_closed_loop_is_an_error() {
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    let mut late = Slow::new(Duration::from_millis(1));
    (late.pause, late.fails_from) = (Some((at(400), at(900))), Some(at(900)));
    let measured = measure(&workload(None, 3), late).await;
    assert!(measured.ops > 0);
    assert_eq!((measured.errors, measured.took), (3, Duration::from_millis(600)));

    let now = Instant::now();
    let mut hanging = Slow::new(Duration::from_millis(1));
    hanging.pause = Some((now + Duration::from_millis(400), now + Duration::from_secs(3_600)));
    let (workload, drain) = (workload(None, 3), Duration::from_millis(50));
    let (targets, keys) = (vec![hanging], Keys::Spread(100));
    let never = std::future::pending();
    let measured =
        run_and_drain(&workload, targets, keys, &[], never, drain, |_| {}).await.unwrap();
    assert!(measured.ops > 0);
    assert_eq!(measured.error_texts, [("no answer 0.05 s after the window".to_owned(), 3)]);
}
