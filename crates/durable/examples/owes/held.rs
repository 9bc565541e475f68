//! The ways in which something that destroys is held back, or is not.

use std::future::{Future, pending, poll_fn};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use epilogue_durable::{
    Action, ActionCx, ActionError, Durable, DurableScope, RemoveTree, RunCommand, action, guard,
};
use epilogue_process::App;
use epilogue_scope::scope;
use epilogue_task::async_scope;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::{tell, wait};

/// Fails until somebody has made DIR/allowed; for good, if it gives up.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Unmount {
    dir: PathBuf,
    gives_up: bool,
}

impl Unmount {
    pub(crate) fn of(dir: &Path) -> Unmount {
        Unmount { dir: dir.to_owned(), gives_up: false }
    }
}

impl Action for Unmount {
    const NAME: &'static str = "owes.unmount";

    fn run(&self, _: &ActionCx) -> Result<(), ActionError> {
        match std::fs::metadata(self.dir.join("allowed")) {
            Err(_) if self.gives_up => Err(ActionError::park("busy for good")),
            allowed => Ok(allowed.map(drop)?),
        }
    }
}
action!(Unmount);

/// Ends as it is told; `None` where that is no way of these.
pub(crate) fn way(way: &str, dir: &Path) -> Option<ExitCode> {
    match way {
        "mounted" => mounted(dir),
        "mounted-within" => mounted_within(dir),
        "mounted-elsewhere" => mounted_elsewhere(dir),
        "adopted" => adopted(dir),
        "swamped" => swamped(dir),
        "parked" => parked(dir),
        "by-hand" => by_hand(dir),
        "cancelled" => cancelled(dir),
        "outer-fails" => outer_fails(dir),
        "handed-to-cut" => handed_to_cut(dir),
        "piles" => piles(dir),
        "early" => early(dir),
        "busy" => busy(dir),
        "busy-disarmed" => busy_disarmed(dir),
        "worker" => worker(dir),
        "outlived" => outlived(dir),
        "one-thread" => one_thread(dir),
        "refused" => refused(dir),
        "deep" => deep(dir),
        "lives-on" => return Some(lives_on(dir)),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// A tree with something mounted in it, which cannot be undone; and a tree of another scope.
fn mounted(dir: &Path) {
    scope(|s| {
        let _tree = tree_in(s, dir, "mounted");
        mount_in(s, dir);
        scope(|s| drop(tree_in(s, dir, "other")));
    });
}

fn tree_in(s: &impl DurableScope, dir: &Path, name: &str) -> Durable {
    let tree = dir.join(name);
    let owed = s.durable(RemoveTree::new(&tree).expect("a path")).expect("registered");
    std::fs::create_dir(&tree).expect("made");
    owed
}

fn mount_in(s: &impl DurableScope, dir: &Path) {
    let _owed = s.durable(Unmount::of(dir)).expect("registered");
}

fn allow(dir: &Path) {
    std::fs::write(dir.join("allowed"), "").expect("allowed");
}

/// With one thread for what blocks, and no clock.
fn small_runtime() -> Runtime {
    Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime")
}

/// The same with the mount in a scope within: of the thread, of the task, of the thread within the task.
fn mounted_within(dir: &Path) {
    scope(|s| {
        let _tree = tree_in(s, dir, "mounted-1");
        scope(|s| mount_in(s, dir));
        scope(|s| drop(tree_in(s, dir, "other")));
    });
    let runtime = small_runtime();
    runtime.block_on(async_scope(async |s| {
        let _tree = tree_in(s, dir, "mounted-2");
        async_scope(async |s| mount_in(s, dir)).await;
    }));
    runtime.block_on(async_scope(async |s| {
        let _tree = tree_in(s, dir, "mounted-3");
        scope(|s| mount_in(s, dir));
    }));
}

/// The unmount waits its turn on the lane, in a scope that was cut; and one in a task of the scope.
fn mounted_elsewhere(dir: &Path) {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        async_scope(async |s| {
            let _tree = tree_in(s, dir, "mounted-1");
            let inner = async_scope(async |s| {
                mount_in(s, dir);
                let its = dir.to_owned();
                s.defer(async move |_| {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    allow(&its);
                });
                pending::<()>().await;
            });
            cut(inner).await;
        })
        .await;
        println!("{}", dir.join("mounted-1").exists() || !dir.join("allowed").exists());
        std::fs::remove_file(dir.join("allowed")).expect("was there");
        async_scope(async |s| {
            let _tree = tree_in(s, dir, "mounted-2");
            let its = dir.to_owned();
            let inner = async move { async_scope(async |s| mount_in(s, &its)).await };
            s.spawn("mounts", inner).await.expect("ended");
        })
        .await;
        println!("{}", !dir.join("mounted-2").exists());
    });
}

/// Begins it, and drops it.
async fn cut(part: impl Future<Output = ()>) {
    let mut part = Box::pin(part);
    poll_fn(|cx| {
        assert!(part.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// What another scope has adopted is held back by what that takes on later, itself or within; not by what it
/// had taken on before.
fn adopted(dir: &Path) {
    let pile = |name: &str| {
        scope(|s| {
            let _tree = tree_in(s, dir, name);
            s.pop_all()
        })
    };
    scope(|s| {
        s.adopt(pile("adopted-1"));
        mount_in(s, dir);
    });
    scope(|s| {
        // Handed on, and on.
        s.adopt(scope(|s| {
            s.adopt(pile("adopted-2"));
            s.pop_all()
        }));
        scope(|s| mount_in(s, dir));
    });
    scope(|s| {
        mount_in(s, dir);
        s.adopt(pile("free"));
    });
    small_runtime().block_on(async_scope(async |outer| {
        let handle = outer.handle();
        async_scope(async |inner| {
            drop(tree_in(inner, dir, "adopted-3"));
            inner.hand_over(&handle).expect("it is open");
        })
        .await;
        async_scope(async |s| mount_in(s, dir)).await;
    }));
}

/// The same of a scope that has adopted a hundred others since.
fn swamped(dir: &Path) {
    scope(|outer| {
        let _tree = tree_in(outer, dir, "swamped-1");
        for _ in 0..100 {
            outer.adopt(scope(|s| {
                drop(tree_in(s, dir, "never"));
                std::fs::remove_dir(dir.join("never")).expect("made");
                s.pop_all()
            }));
        }
        scope(|s| mount_in(s, dir));
    });
    small_runtime().block_on(async_scope(async |outer| {
        let _tree = tree_in(outer, dir, "swamped-2");
        let handle = outer.handle();
        for _ in 0..100 {
            async_scope(async |inner| {
                drop(tree_in(inner, dir, "never"));
                std::fs::remove_dir(dir.join("never")).expect("made");
                inner.hand_over(&handle).expect("it is open");
            })
            .await;
        }
        async_scope(async |s| mount_in(s, dir)).await;
    }));
}

/// What has given up is not done.
fn parked(dir: &Path) {
    let gives_up = || Unmount { dir: dir.to_owned(), gives_up: true };
    scope(|s| {
        let _tree = tree_in(s, dir, "parked-1");
        s.durable(gives_up()).expect("registered").run_now().expect_err("it gives up");
    });
    small_runtime().block_on(async_scope(async |s| {
        let _tree = tree_in(s, dir, "parked-2");
        s.durable(gives_up()).expect("registered").run_now().expect_err("it gives up");
    }));
    // Asked for twice while the scope is on its way to it.
    small_runtime().block_on(async_scope(async |s| {
        let _tree = tree_in(s, dir, "parked-3");
        let mount = s.durable(gives_up()).expect("registered");
        s.defer(async move |_| {
            mount.run_now().expect_err("it gives up");
            assert!(!mount.run_now().expect("kept for an operator"));
        });
    }));
}

/// Without a runtime, what an async scope owes runs where it is polled.
fn by_hand(dir: &Path) {
    scope(|s| {
        let _tree = tree_in(s, dir, "by-hand");
        let mut polled = Box::pin(async_scope(async |s| {
            let its = dir.to_owned();
            mount_in(s, dir);
            s.defer(async move |_| allow(&its));
        }));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        println!("{}", polled.as_mut().poll(&mut cx).is_ready());
    });
}

/// A runtime goes away when the turn of what a task of it owes has come: that runs, and fails, and holds back the
/// tree whose turn is next, on the lane.
fn cancelled(dir: &Path) {
    let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let (its, handle) = (dir.to_owned(), runtime.handle().clone());
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (go_on, on_the_lane) = oneshot::channel::<()>();
    runtime.spawn(async move {
        async_scope(async |s| {
            let _tree = tree_in(s, &its, "cancelled");
            // Here the runtime drops the task, and the rest comes to the lane.
            s.defer(async move |_| drop(on_the_lane.await));
            mount_in(s, &its);
            s.defer(async move |_| {
                let _ = tell.send(());
                // It goes away while this blocks.
                let _ = gone.recv();
            });
        })
        .await;
    });
    told.recv().expect("its turn has come");
    runtime.shutdown_background();
    // From here on it takes nothing.
    while !handle_is_gone(&handle) {
        std::thread::yield_now();
    }
    let _ = go.send(());
    while epilogue_task::lane::pending() == 0 {
        std::thread::yield_now();
    }
    let _ = go_on.send(());
    epilogue_task::lane::wait(Duration::from_secs(20));
}

fn handle_is_gone(handle: &tokio::runtime::Handle) -> bool {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    drop(handle.spawn_blocking(move || drop(tell)));
    told.recv().is_err()
}

/// The failure of what an outer scope owes is not within an inner one that was open then.
fn outer_fails(dir: &Path) {
    scope(|outer| {
        scope(|inner| {
            drop(tree_in(inner, dir, "inner"));
            outer.durable(Unmount::of(dir)).expect("registered").run_now().expect_err("not allowed");
        });
    });
}

/// What was handed to a scope that is cut has its turn on the lane: an outer tree waits for that.
fn handed_to_cut(dir: &Path) {
    let runtime = small_runtime();
    let _adopted = epilogue_task::lane::adopt(runtime.handle().clone());
    allow(dir);
    runtime.block_on(async_scope(async |outer| {
        let _tree = tree_in(outer, dir, "handed");
        cut(async_scope(async |cut| {
            let handle = cut.handle();
            async_scope(async |inner| {
                drop(tree_in(inner, dir, "handed/inner"));
                inner.hand_over(&handle).expect("it is open");
            })
            .await;
            pending::<()>().await;
        }))
        .await;
        // On the lane it is the first; the outer tree would take the inner one along.
        let its = dir.to_owned();
        outer.defer(async move |_| println!("{}", its.join("handed/inner").exists()));
    }));
}

/// A pile of a scope that was left is not around what comes later; and many of them are no burden.
fn piles(dir: &Path) {
    let pile = scope(|s| {
        let _tree = tree_in(s, dir, "piled");
        s.pop_all()
    });
    drop(guard(Unmount::of(dir)).expect("registered"));
    drop(pile);
    println!("{}", dir.join("piled").exists());
    let piled = |_| {
        scope(|s| {
            mount_in(s, dir);
            s.pop_all()
        })
    };
    let piles: Vec<_> = (0..3000).map(piled).collect();
    allow(dir);
    drop(piles);
}

/// Asked for early, it asks only for what has begun; refused then, it is left alone until its scope is.
fn early(dir: &Path) {
    scope(|s| {
        let tree = tree_in(s, dir, "early");
        let newer = s.durable(Unmount::of(dir)).expect("registered");
        scope(|s| {
            let within = s.durable(Unmount::of(dir)).expect("registered");
            println!("{}", tree.run_now().expect("what has not begun is not asked"));
            assert!(within.disarm());
        });
        let tree = tree_in(s, dir, "early");
        let newest = s.durable(Unmount::of(dir)).expect("registered");
        newest.run_now().expect_err("not allowed");
        println!("{}", tree.run_now().is_err());
        allow(dir);
        newest.run_now().expect("allowed");
        println!("{}", dir.join("early").exists());
        assert!(newer.disarm());
    });
    println!("{}", dir.join("early").exists());
}

/// A command that lasts until it is allowed to end, and has begun.
fn slow(s: &impl DurableScope, dir: &Path) {
    let script = format!("cd {}; touch began; until [ -e allowed ]; do sleep 0.01; done", dir.display());
    let stop = s.durable(RunCommand::new(["sh", "-c", &script]).expect("a command")).expect("registered");
    std::thread::spawn(move || stop.run_now());
    while !dir.join("began").exists() {
        std::thread::yield_now();
    }
}

/// A tree that something which still runs elsewhere may need; and one of which that is held back itself.
fn busy(dir: &Path) {
    scope(|s| {
        let _tree = tree_in(s, dir, "busy");
        let _inner = tree_in(s, dir, "busy/inner");
        slow(s, dir);
    });
    tell(if dir.join("busy/inner").exists() { "left" } else { "gone" });
    while dir.join("busy").exists() {
        std::thread::yield_now();
    }
    tell("tried again");
    wait();
}

/// The same in an async scope, which waits; disarmed meanwhile.
fn busy_disarmed(dir: &Path) {
    // The thread on which the tree's turn has come, asleep.
    let waits = || {
        let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
        let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        stats.into_iter().any(|stat| stat.contains("(tokio-") && stat.contains(") S "))
    };
    let disarms = small_runtime().block_on(async_scope(async |s| {
        let tree = tree_in(s, dir, "busy");
        slow(s, dir);
        let dir = dir.to_owned();
        std::thread::spawn(move || {
            while !waits() {
                std::thread::yield_now();
            }
            println!("{}", tree.disarm());
            allow(&dir);
        })
    }));
    disarms.join().expect("disarmed");
    println!("{}", dir.join("busy").exists());
}

/// A worker that an older cleanup ends owes something newer than two trees, and so does a guard that somebody
/// outside has: neither's turn comes before the trees'.
fn worker(dir: &Path) {
    let kept = small_runtime().block_on(async_scope(async |s| {
        let (go, begin) = oneshot::channel::<()>();
        let (ready, has_begun) = oneshot::channel::<()>();
        let (stop, end) = oneshot::channel::<()>();
        let its = dir.to_owned();
        let _worker = s.spawn("worker", async move {
            let _ = begin.await;
            async_scope(async |s| {
                mount_in(s, &its);
                let _ = ready.send(());
                let _ = end.await;
            })
            .await;
        });
        let its = dir.to_owned();
        s.defer(async move |_| {
            println!("{} {}", its.join("worker-1").exists(), its.join("worker-2").exists());
            let _ = stop.send(());
        });
        let _trees = [tree_in(s, dir, "worker-1"), tree_in(s, dir, "worker-2")];
        let _ = go.send(());
        has_begun.await.expect("it has begun");
        allow(dir);
        guard(Unmount::of(dir)).expect("registered")
    }));
    assert!(kept.disarm());
}

/// A task of the outer scope, spawned from within an inner one, is not within that.
fn outlived(dir: &Path) {
    small_runtime().block_on(async_scope(async |outer| {
        let (ready, has_failed) = oneshot::channel::<()>();
        async_scope(async |inner| {
            drop(tree_in(inner, dir, "outlived"));
            let its = dir.to_owned();
            let _task = outer.spawn("outlives", async move {
                async_scope(async |s| mount_in(s, &its)).await;
                let _ = ready.send(());
            });
            has_failed.await.expect("it has failed");
        })
        .await;
        println!("{}", dir.join("outlived").exists());
    }));
    allow(dir);
}

/// What a cut scope owes has to run on the one thread for what blocks, and what destroys waits for it.
fn one_thread(dir: &Path) {
    let runtime = small_runtime();
    let _adopted = epilogue_task::lane::adopt(runtime.handle().clone());
    allow(dir);
    runtime.block_on(async_scope(async |s| {
        let _trees = [tree_in(s, dir, "thread-1"), tree_in(s, dir, "thread-2")];
        cut(async_scope(async |s| {
            mount_in(s, dir);
            pending::<()>().await;
        }))
        .await;
    }));
}

/// Something that outlives the program's own scope is newer than its trees: one is then disarmed, and one is
/// left to the guardian.
fn lives_on(dir: &Path) -> ExitCode {
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let lives = |name: &str| {
        let (its, name) = (dir.to_owned(), name.to_owned());
        let mut kept = None;
        let code = runtime.block_on(epilogue_process::run(async |app: &App| {
            drop(tree_in(app, &its, &name));
            drop(tree_in(app, &its, &format!("{name}-too")));
            kept = Some(guard(Unmount::of(&its))?);
            Ok(())
        }));
        println!("{}", dir.join(&name).exists());
        (code, kept.expect("registered"))
    };
    let (_, kept) = lives("lives-1");
    assert!(kept.disarm());
    while dir.join("lives-1").exists() {
        std::thread::yield_now();
    }
    let (code, kept) = lives("lives-2");
    // It is never dropped.
    Box::leak(Box::new(kept));
    code
}

/// A disarm that the journal refuses: it may not be written beyond its first byte.
fn refused(dir: &Path) {
    // Without room to map it, the journal is written at positions.
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
    limit(libc::RLIMIT_AS, pages * 4096 + (24 << 20));
    scope(|s| {
        let _tree = tree_in(s, dir, "refused");
        limit(libc::RLIMIT_AS, u64::MAX);
        scope(|s| {
            let mount = s.durable(Unmount::of(dir)).expect("registered");
            // SAFETY: a plain call on valid arguments: to be told by an error instead.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            limit(libc::RLIMIT_FSIZE, 1);
            println!("{}", mount.disarm());
            limit(libc::RLIMIT_FSIZE, u64::MAX);
        });
    });
    println!("{}", dir.join("refused").exists());
}

fn limit(what: libc::__rlimit_resource_t, soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it is valid for writes, and for reads.
    unsafe {
        assert_eq!(libc::getrlimit(what, &raw mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(what, &raw const limit), 0);
    }
}

/// Far within, where the outer scopes have higher numbers than the inner ones: they were entered on a thread
/// that was given its numbers later.
fn deep(dir: &Path) {
    scope(|_| {});
    let its = dir.to_owned();
    let outer = std::thread::spawn(move || {
        let mut outer = Box::pin(async_scope(async move |_| {
            tokio::task::yield_now().await;
            Box::pin(down(150, its)).await;
        }));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(outer.as_mut().poll(&mut cx).is_pending());
        outer
    });
    small_runtime().block_on(outer.join().expect("entered"));
}

async fn down(left: u32, dir: PathBuf) {
    async_scope(async |s| {
        if left > 0 {
            return Box::pin(down(left - 1, dir)).await;
        }
        println!("{:?}", epilogue_task::enclosing_scopes());
        let _owed = s.durable(Unmount::of(&dir)).expect("registered");
        tell("ready");
        wait();
    })
    .await;
}
