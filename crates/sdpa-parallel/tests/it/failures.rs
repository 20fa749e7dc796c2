//! Failures are errors with a deadline on every rank, and name the rank that is to blame.

use std::time::{Duration, Instant};

use harness::regime::Regime;
use sdpa_core::{Device as _, Interpreter, Problem};
use sdpa_parallel::{Communicator, ContextParallel, Error, InProcess, LocalTensors, Way};

use crate::ranks::{data_of, pass};

/// Runs three ranks of which rank 1 does `what` instead of its second pass; what the others get, and after how long.
fn with_a_faulty_rank(way: Way, deadline: Duration, what: fn(InProcess)) -> Vec<(Error, Duration)> {
    let problem = Problem::new(1, 3, 40, 64).build().unwrap();
    let context = ContextParallel::new(problem.clone(), 3).unwrap().with_way(way);
    let data = data_of(&problem, Regime::Normal, 3);
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        for communicator in InProcess::group(3, deadline) {
            let (context, data) = (&context, &data);
            if communicator.rank() == 1 {
                scope.spawn(move || {
                    pass(context, data, &communicator).unwrap();
                    what(communicator);
                });
            } else {
                others.push(scope.spawn(move || {
                    pass(context, data, &communicator).unwrap();
                    let started = Instant::now();
                    (pass(context, data, &communicator).unwrap_err(), started.elapsed())
                }));
            }
        }
        others.into_iter().map(|other| other.join().unwrap()).collect()
    })
}

#[test]
fn a_rank_that_fails_is_named_at_once() {
    for way in [Way::Ring, Way::Heads] {
        let fail = |communicator: InProcess| {
            communicator.fail("out of paper");
            std::thread::sleep(Duration::from_millis(100));
        };
        for (error, after) in with_a_faulty_rank(way, Duration::from_secs(600), fail) {
            assert!(
                matches!(&error, Error::RankFailed { failed: 1, reason, .. } if reason == "out of paper"),
                "{error}"
            );
            assert!(after < Duration::from_secs(60), "{way}: {after:?}");
        }
    }
}

#[test]
fn a_rank_that_ends_is_named_at_once() {
    for way in [Way::Ring, Way::Heads] {
        for (error, after) in with_a_faulty_rank(way, Duration::from_secs(600), drop) {
            assert!(matches!(error, Error::RankLost { lost: 1, .. }), "{way}: {error}");
            assert!(after < Duration::from_secs(60), "{way}: {after:?}");
        }
    }
}

#[test]
fn a_rank_that_is_silent_is_given_up_at_the_deadline() {
    for way in [Way::Ring, Way::Heads] {
        let sleep = |communicator: InProcess| {
            std::thread::sleep(Duration::from_secs(4));
            drop(communicator);
        };
        for (error, after) in with_a_faulty_rank(way, Duration::from_secs(2), sleep) {
            // The first rank that gives up says so, and the others give up with it.
            let is_silent = matches!(&error, Error::Silent { silent, .. } if silent == &[1]);
            let is_told = matches!(&error, Error::RankFailed { reason, .. } if reason.contains("rank 1 was expected"));
            assert!(is_silent || is_told, "{way}: {error}");
            assert!(after < Duration::from_secs(30), "{way}: {after:?}");
        }
    }
}

#[test]
fn a_barrier_names_who_did_not_come() {
    let mut group = InProcess::group(4, Duration::from_millis(200));
    let _silent = group.remove(2);
    let errors: Vec<Error> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            group.into_iter().map(|communicator| scope.spawn(move || communicator.barrier().unwrap_err())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for error in errors {
        let said = error.to_string();
        assert!(said.contains("rank 2 was expected") || said.contains("is gone"), "{said}");
    }
}

#[test]
fn ranks_meet_again_and_again() {
    std::thread::scope(|scope| {
        for communicator in InProcess::group(5, Duration::from_secs(60)) {
            scope.spawn(move || {
                for _ in 0..50 {
                    communicator.barrier().unwrap();
                }
            });
        }
    });
}

/// One process: the device error of one rank is that rank's own, and told to the others.
#[test]
fn a_rank_with_a_wrong_tensor_tells_the_others() {
    let problem = Problem::new(1, 2, 32, 64).build().unwrap();
    let context = ContextParallel::new(problem.clone(), 2).unwrap();
    let right = data_of(&problem, Regime::Normal, 1);
    let shorter = Problem::new(1, 1, 32, 64).build().unwrap();
    let wrong = data_of(&shorter, Regime::Normal, 1);
    let errors: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = InProcess::group(2, Duration::from_secs(600))
            .into_iter()
            .zip([&right, &wrong])
            .map(|(communicator, data)| {
                let context = &context;
                scope.spawn(move || pass(context, data, &communicator).unwrap_err().to_string())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(errors[1].starts_with("query needs 4096 bytes"), "{errors:?}");
    assert!(errors[0].starts_with("rank 1 failed, so rank 0 gave up: query needs"), "{errors:?}");
}

/// Tensors and workspaces that are not the plan's own are refused before anything is launched.
#[test]
fn what_is_not_the_plans_own_is_refused() {
    let problem = Problem::new(1, 2, 32, 64).build().unwrap();
    for way in [Way::Ring, Way::Heads] {
        let context = ContextParallel::new(problem.clone(), 2).unwrap().with_way(way);
        let shorter = ContextParallel::new(Problem::new(1, 2, 8, 64).build().unwrap(), 2).unwrap().with_way(way);
        let device = Interpreter::new();
        let (own, foreign) = (device.allocate(4096).unwrap(), Interpreter::new().allocate(4096).unwrap());
        let lse = device.allocate(2 * 16 * 4).unwrap();
        let plan = context.plan(0).unwrap();
        let workspace = plan.workspace(&device).unwrap();
        let tensors = LocalTensors::new(&own, &own, &own, &own).with_lse(&lse);
        let said = |tensors: &LocalTensors<'_>, workspace| {
            let group = InProcess::group(2, Duration::from_secs(5));
            plan.forward(&device, &group[0], tensors, workspace).unwrap_err().to_string()
        };
        let other = shorter.plan(0).unwrap().workspace(&device).unwrap();
        let too_small = said(&tensors, &other);
        assert!(too_small.contains(" needs ") && too_small.contains("its buffer holds"), "{way}: {too_small}");
        for wrong in [LocalTensors { output: &foreign, ..tensors }, LocalTensors { lse: Some(&foreign), ..tensors }] {
            let elsewhere = said(&wrong, &workspace);
            assert!(elsewhere.contains("lies in another device's memory"), "{way}: {elsewhere}");
        }
        let short = device.allocate(2 * 16 * 4 - 1).unwrap();
        let said = said(&LocalTensors { lse: Some(&short), ..tensors }, &workspace);
        assert!(said.starts_with("lse needs 128 bytes"), "{way}: {said}");
    }
    let group = InProcess::group(2, Duration::from_secs(5));
    let context = ContextParallel::new(problem, 2).unwrap();
    let device = Interpreter::new();
    let own = device.allocate(4096).unwrap();
    let tensors = LocalTensors::new(&own, &own, &own, &own);
    let plan = context.plan(1).unwrap();
    let workspace = plan.workspace(&device).unwrap();
    let said = plan.forward(&device, &group[0], &tensors, &workspace).unwrap_err().to_string();
    assert_eq!(said, "rank of the communicator: 0, but 1 expected");
}
