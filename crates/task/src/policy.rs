//! What a panic in a task means.

use std::sync::{Arc, Mutex, PoisonError};

/// What a panic in a spawned task means. Either way the cleanups of all other tasks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskPanic {
    /// The task is gone; whoever awaits it is told, else it is reported. The program goes on.
    #[default]
    Isolate,
    /// The program stops in order and exits with 101.
    Stop,
}

/// Who is told of the name and the message of a task whose panic stops the program: `run`, while it
/// is active. With nobody to tell, the process exits with 101, which waits for the lane.
pub fn on_task_panic(stop: Option<StopTheProgram>) {
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = stop;
}

/// Stops the program in order: takes a task's name and its message.
pub type StopTheProgram = Arc<dyn Fn(&str, &str) + Send + Sync>;

static TOLD: Mutex<Option<StopTheProgram>> = Mutex::new(None);

pub(crate) fn stop_the_program(task: &str, message: &str) {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match told {
        Some(told) => told(task, message),
        None => {
            crate::os::say(&format!("epilogue: the task {task} panicked: {message}; the program stops"));
            // Not on this thread, which may be a worker that the cleanups need.
            let exit = std::thread::Builder::new().name("epilogue-exit".into());
            if exit.spawn(|| std::process::exit(101)).is_err() {
                std::process::exit(101);
            }
        }
    }
}
