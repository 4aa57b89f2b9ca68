//! `kv admin group recover`, against stores that tell of groups what they are told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_client::pb;
use flotilla_client::pb::admin_server::Admin;
use flotilla_client::pb::stores_server::Stores;
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::cli::{Run, kv, objects};
use crate::server::{Fake, World, refusal, region};

/// The operators' side of a scripted store, which is placement, too.
#[derive(Clone)]
pub struct Operators {
    pub store: u64,
    pub world: Arc<Mutex<World>>,
}

type Answer<T> = Result<Response<T>, Status>;

/// Nobody here is asked for it.
fn never<T>() -> Answer<T> {
    Err(Status::unimplemented("a scripted store"))
}

#[tonic::async_trait]
impl Admin for Operators {
    async fn describe(
        &self,
        request: Request<pb::DescribeRequest>,
    ) -> Answer<pb::DescribeResponse> {
        let wanted = request.into_inner().group;
        let world = self.world.lock().unwrap();
        let mine = |(store, told): &&(u64, pb::ReplicaState)| {
            *store == self.store && (wanted == 0 || wanted == told.group)
        };
        let replicas = world.replicas.iter().filter(mine).map(|(_, told)| told.clone()).collect();
        Ok(Response::new(pb::DescribeResponse { store: self.store, replicas }))
    }

    /// Of a leader that has accepted `operations`, and has no reason to refuse but one.
    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Answer<pb::AdminResponse> {
        let request = request.into_inner();
        let mut world = self.world.lock().unwrap();
        let nobody = |change: &pb::Change| change.what == Some(pb::change::What::Remove(0));
        if !world.operations.contains(&request.operation) && request.changes.iter().any(nobody) {
            let message = "replica 0 is not a member".to_owned();
            let error = pb::Error { message, ..refusal(pb::error::Kind::Refused) };
            return Ok(Response::new(pb::AdminResponse { error: Some(error) }));
        }
        if let Some(kind) = world.change_answers.front().copied() {
            if world.change_answers.len() > 1 {
                world.change_answers.pop_front();
            }
            let error = Some(refusal(kind));
            return Ok(Response::new(pb::AdminResponse { error }));
        }
        world.changes.push(request);
        Ok(Response::new(pb::AdminResponse::default()))
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::AdminResponse> {
        never()
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<pb::SnapshotResponse> {
        never()
    }

    async fn recover(&self, request: Request<pb::RecoverRequest>) -> Answer<pb::AdminResponse> {
        let request = request.into_inner();
        let mut world = self.world.lock().unwrap();
        world.recovered.push((self.store, request.group));
        world.replica_max.push(request.replica_max);
        Ok(Response::new(pb::AdminResponse::default()))
    }
}

#[tonic::async_trait]
impl Stores for Operators {
    async fn give_up(&self, request: Request<pb::GiveUpRequest>) -> Answer<pb::AdminResponse> {
        self.world.lock().unwrap().given_up = request.into_inner().stores;
        Ok(Response::new(pb::AdminResponse::default()))
    }
}

/// A follower without a leader among voters on five stores.
fn replica(group: u64, store: u64, last_index: u64, damage: &str) -> (u64, pb::ReplicaState) {
    let member = |store| pb::Member {
        replica: 10 * group + store,
        store,
        role: "voter".to_owned(),
        priority: -1,
    };
    let told = pb::ReplicaState {
        group,
        region: group,
        replica: 10 * group + store,
        role: if damage.is_empty() { "follower" } else { "quarantined" }.to_owned(),
        last_term: 2,
        last_index,
        damage: damage.to_owned(),
        members: (1..=5).map(member).collect(),
        ..pb::ReplicaState::default()
    };
    (store, told)
}

/// Of five stores 3, 4 and 5 are lost. Group 1 is sound, of group 2 a replica that is left is damaged, of
/// group 3 both are, of group 4 none is left, and group 9 has a leader.
async fn remains() -> Fake {
    let mut fake = Fake::start().await;
    let mut gone = region(4, "x", "", 0);
    for (place, store) in gone.replicas.iter_mut().zip(3..) {
        place.store = store;
    }
    fake.set(|world| {
        world.regions.push(gone);
        world.replicas = vec![
            replica(1, 1, 7, ""),
            replica(1, 2, 9, ""),
            replica(2, 1, 0, "a hole in its log"),
            replica(2, 2, 5, ""),
            replica(3, 1, 0, "a hole in its log"),
            replica(3, 2, 0, "a bad block"),
            replica(9, 1, 5, ""),
        ];
        world.replicas.last_mut().unwrap().1.role = "leader".to_owned();
    });
    fake.kill(3).await;
    fake
}

const RECOVER: [&str; 7] =
    ["--timeout", "5s", "admin", "group", "recover", "--lost-stores", "3,4,5"];

#[tokio::test]
async fn groups_go_on_without_damaged_replicas_only_if_told_to() {
    let fake = remains().await;
    let run = kv(&fake, &RECOVER).await;
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(fake.ask(|world| world.recovered.clone()), [(2, 1)], "{run:?}");
    assert_eq!(fake.ask(|world| world.given_up.clone()), [3, 4, 5]);
    for line in [
        "ok group=1 replica=12 store=2 operation=",
        "failed group=2: group 2: replica 21 at store 1 cannot go on (a hole in its log) and may hold writes",
        "go on without it with --without-damaged",
    ] {
        assert!(run.out.contains(line), "{line}: {run:?}");
    }
    assert!(run.err.contains("operation ") && run.err.contains("replica 21"), "{run:?}");

    fake.set(|world| world.recovered.clear());
    let run = kv(&fake, &[&RECOVER[..], &["--without-damaged"]].concat()).await;
    assert_eq!(fake.ask(|world| world.recovered.clone()), [(2, 1), (2, 2)], "{run:?}");
    assert!(run.out.contains("ok group=2 replica=22 store=2 operation="), "{run:?}");
}

#[tokio::test]
async fn a_group_of_which_nothing_is_left_fails_the_recovery() {
    let fake = remains().await;
    let forced = [&RECOVER[..], &["--without-damaged"]].concat();
    let run = kv(&fake, &forced).await;
    assert_eq!(run.code, 3, "{run:?}");
    for line in [
        "failed group=3: group 3: replica 31 at store 1 cannot go on (a hole in its log), and no sound one is left",
        "failed group=4: group 4: no replica is left: its data is gone",
    ] {
        assert!(run.out.contains(line), "{line}: {run:?}");
    }
    let run = kv(&fake, &[&["--json"][..], &forced].concat()).await;
    assert_eq!(run.code, 3, "{run:?}");
    let lines = objects(&run.out);
    let line = |group: u64| lines.iter().find(|line| line["group"] == json!(group)).unwrap();
    assert_eq!((&line(1)["store"], &line(1)["error"]), (&json!(2), &json!(null)));
    assert_eq!((&line(4)["gone"], &line(4)["damaged"]), (&json!(true), &json!(null)), "{run:?}");
    assert_eq!((&line(3)["gone"], &line(3)["damaged"]), (&json!(null), &json!(true)), "{run:?}");
    assert_eq!(line(1)["turned_away"], json!([3, 4, 5]), "{run:?}");
    assert_eq!(line(4)["error"], json!("group 4: no replica is left: its data is gone"));
    // Only what is listed counts.
    let one = |group: &'static str| [&RECOVER[..5], &[group][..], &RECOVER[5..]].concat();
    assert_eq!(kv(&fake, &one("1")).await.code, 0);
    assert_eq!(kv(&fake, &one("4")).await.code, 3);
    let run = kv(&fake, &one("9")).await;
    assert!(run.code == 0 && run.out.contains("nothing to recover in group 9"), "{run:?}");
    let run = kv(&fake, &[&["--json"][..], &one("9")].concat()).await;
    let nothing = json!({"group": 9, "nothing_to_recover": true, "turned_away": []});
    assert_eq!((run.code, objects(&run.out)), (0, vec![nothing.clone()]), "{run:?}");
    let run = kv(&fake, &one("99")).await;
    assert!(run.code == 3 && run.err.contains("group 99 is unknown: `kv regions`"), "{run:?}");
    // Nothing is wrong with a plan.
    fake.set(|world| world.recovered.clear());
    assert_eq!(kv(&fake, &[&RECOVER[..], &["--dry-run"]].concat()).await.code, 0);
    assert_eq!(fake.ask(|world| world.recovered.len()), 0);
    let run = kv(&fake, &[&["--json"][..], &one("9"), &["--dry-run"]].concat()).await;
    let lines = objects(&run.out);
    assert_eq!((lines.len(), lines.last()), (5, Some(&nothing)), "the plan is of all groups");
}

#[tokio::test]
async fn a_recovery_with_nothing_to_do_says_so() {
    let mut fake = Fake::start().await;
    fake.kill(3).await;
    let recover = [&RECOVER[..6], &["3"]].concat();
    for (flags, turned_away) in [
        (&[][..], &[][..]),
        (&["--dry-run"], &[]),
        (&["--dry-run", "--force"], &[3]),
        (&["--force"], &[3_u64]),
    ] {
        let run = kv(&fake, &[&recover[..], flags].concat()).await;
        assert!(run.code == 0 && run.out.contains("nothing to recover: every group"), "{run:?}");
        let none = run.out.contains(": none (no group goes on without them");
        assert_eq!(none, turned_away.is_empty(), "{run:?}");
        let run = kv(&fake, &[&["--json"][..], &recover, flags].concat()).await;
        let nothing =
            json!({"group": null, "nothing_to_recover": true, "turned_away": turned_away});
        assert_eq!((run.code, objects(&run.out)), (0, vec![nothing]), "{run:?}");
        let given_up: &[u64] = if flags == ["--force"] { &[3] } else { &[] };
        assert_eq!(fake.ask(|world| world.given_up.clone()), given_up, "{flags:?}");
    }
}

/// Who may come back is not turned away for a group that cannot go on in any case, or is not meant.
#[tokio::test]
async fn stores_are_turned_away_only_if_a_group_goes_on_without_them() {
    let fake = remains().await;
    let of = |group: &'static str| [&RECOVER[..5], &[group][..], &RECOVER[5..]].concat();
    for (group, code) in [("2", 3), ("3", 3), ("4", 3), ("9", 0)] {
        let run = kv(&fake, &of(group)).await;
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.out.contains("stores turned away from now on: none"), "{run:?}");
        assert!(fake.ask(|world| world.given_up.is_empty()), "{group}");
    }
    let run = kv(&fake, &[&of("1")[..], &["--dry-run"]].concat()).await;
    assert!(run.out.contains("stores would be turned away: 3, 4, 5"), "{run:?}");
    assert!(run.out.contains("none: its data is gone"), "{run:?}");
    assert!(run.out.contains("none: what is left is damaged"), "{run:?}");
    assert!(fake.ask(|world| world.given_up.is_empty()));
    let run = kv(&fake, &of("1")).await;
    assert!(run.code == 0 && run.out.contains("turned away from now on: 3, 4, 5"), "{run:?}");
    assert_eq!(fake.ask(|world| world.given_up.clone()), [3, 4, 5]);
}

#[tokio::test]
async fn a_plan_says_that_a_store_is_not_down() {
    let fake = remains().await;
    let plan = [&RECOVER[..6], &["2,3,4,5", "--dry-run"]].concat();
    let run = kv(&fake, &plan).await;
    assert!(run.code == 0 && run.out.contains("would be refused: store 2 is not down"), "{run:?}");
    let json = [&["--json"][..], &plan].concat();
    let run = kv(&fake, &json).await;
    let not_down = |run: &Run| objects(&run.out)[0]["not_down"].clone();
    assert_eq!(not_down(&run), json!([2, 3]), "{run:?}");
    let run = kv(&fake, &[&json[..], &["--force"]].concat()).await;
    assert_eq!(not_down(&run), json!([]), "{run:?}");
}

#[tokio::test]
async fn a_store_that_nobody_knows_is_not_lost() {
    let fake = remains().await;
    for flags in [&[][..], &["--dry-run"], &["--force"]] {
        let run = kv(&fake, &[&RECOVER[..6], &["3,4,5,99"], flags].concat()).await;
        assert!(run.code == 3 && run.err.contains("there is no store 99"), "{run:?}");
        assert_eq!(fake.ask(|world| (world.given_up.len(), world.recovered.len())), (0, 0));
    }
}

/// One id that was mistyped in group 2 is not passed on to group 1, nor to the next that joins there.
#[tokio::test]
async fn ids_of_a_group_are_not_counted_from_far_away_ones_of_another() {
    let fake = remains().await;
    fake.set(|world| {
        for (_, replica) in &mut world.replicas {
            replica.replica_max = if replica.group == 2 { u64::MAX } else { 100 };
        }
        world.regions[1].replicas[2].replica = u64::MAX;
    });
    assert_eq!(kv(&fake, &[&RECOVER[..], &["--without-damaged"]].concat()).await.code, 3);
    assert_eq!(fake.ask(|world| world.replica_max.clone()), [100, u64::MAX]);
    let run = kv(&fake, &["admin", "group", "add-replica", "1", "--store", "7"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let newcomer = pb::Newcomer { replica: 101, store: 7 };
    let added = pb::Change { what: Some(pb::change::What::AddVoter(newcomer)) };
    assert_eq!(fake.ask(|world| world.changes[0].changes.clone()), [added]);
}

/// The replica may be gone because the order was carried out: only the leader can tell.
#[tokio::test]
async fn an_order_that_is_repeated_after_it_was_done_is_done() {
    let mut fake = remains().await;
    let remove = ["--timeout", "2s", "admin", "group", "remove-replica", "1", "--store", "7"];
    let again = [&remove[..], &["--id", "bb"]].concat();
    for words in [&remove[..], &again] {
        let run = kv(&fake, words).await;
        assert!(run.code == 3 && run.err.contains("group 1 has no replica on store 7"), "{run:?}");
    }
    fake.set(|world| world.operations.push(format!("{:032x}", 0xbb)));
    assert_eq!(kv(&fake, &remove).await.code, 3);
    let run = kv(&fake, &again).await;
    assert!(run.code == 0 && run.out.contains("ok group=1 operation="), "{run:?}");
    // Whom nobody can ask may have done it.
    fake.kill(1).await;
    fake.kill(2).await;
    let run = kv(&fake, &again).await;
    assert!(run.code == 5 || run.code == 4, "{run:?}");
}

/// Whatever comes after an attempt that may have been carried out, nobody hears that nothing was.
#[tokio::test]
async fn an_order_that_was_begun_is_not_called_not_applied() {
    use pb::error::Kind::{Busy, NotLeader, Refused, Unknown};
    let fake = Fake::start().await;
    let change = ["--timeout", "500ms", "--json", "admin", "group", "change", "1", "priority/1@5"];
    for (answers, code) in [
        (&[Refused][..], 3),
        (&[Unknown, Busy], 4),
        (&[Unknown, NotLeader], 4),
        (&[Unknown, Refused], 4),
        (&[Busy, Unknown, Refused], 4),
    ] {
        fake.set(|world| world.change_answers = answers.iter().copied().collect());
        let run = kv(&fake, &change).await;
        assert_eq!(run.code, code, "{answers:?}: {run:?}");
    }
    // Nor when there is nobody left to ask for the way.
    fake.set(|world| world.change_answers = [Unknown, Unknown].into());
    let long = [&["--timeout", "5s"][..], &change[2..]].concat();
    let gone = async {
        while fake.ask(|world| world.change_answers.len()) == 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fake.set(|world| world.regions.clear());
    };
    let (run, ()) = tokio::join!(kv(&fake, &long), gone);
    assert_eq!(run.code, 4, "{run:?}");
}
