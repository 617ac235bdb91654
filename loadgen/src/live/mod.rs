//! The run while it goes on: a screen where there is a terminal, else a plain line now and then.
//!
//! # Invariants
//!
//! - The terminal is given back as it was, also when the run ends early or this process panics.
//! - Drawing never holds up the sending threads: they don't know of it.
//!
//! # Not here
//!
//! Words and columns are in `screen`, what is shown in [`board`].

pub mod board;
mod screen;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use crate::Failure;
use crate::outcome::Second;
use board::Board;

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// On the whole terminal.
    Screen,
    /// A line on standard error each so many seconds.
    Lines(u32),
    /// Not at all.
    Nothing,
}

impl Look {
    /// What suits the place: a screen where both standard input and standard error are terminals, else a line each
    /// second of a short run and each five of a long one.
    pub fn suitable(board: &Board) -> Self {
        if io::stdin().is_terminal() && io::stderr().is_terminal() && io::stdout().is_terminal() {
            return Self::Screen;
        }
        Self::Lines(if board.lasts.as_secs() <= 60 { 1 } else { 5 })
    }
}

/// A wish of the person at the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// End the run, and wait for what is open.
    End,
    /// Don't wait for what is open.
    Hurry,
}

/// A run that is being shown.
#[derive(Debug)]
pub struct Live {
    board: Arc<Mutex<Board>>,
    look: Look,
    over: Arc<AtomicBool>,
    screen: Option<JoinHandle<io::Result<()>>>,
}

impl Live {
    /// Begins to show. `wish` is called on a thread of its own.
    ///
    /// # Errors
    ///
    /// The terminal can't be used.
    pub fn begin(board: Board, look: Look, wish: impl Fn(Wish) + Send + 'static) -> anyhow::Result<Self> {
        let board = Arc::new(Mutex::new(board));
        let over = Arc::new(AtomicBool::new(false));
        let mut screen = None;
        if look == Look::Screen {
            let (board, over) = (Arc::clone(&board), Arc::clone(&over));
            let terminal = ratatui::try_init().context("could not use the terminal")?;
            let draw = move || {
                let done = screen::run(terminal, &board, &over, wish);
                ratatui::restore();
                done
            };
            screen = Some(std::thread::Builder::new().name("screen".to_owned()).spawn(draw)?);
        }
        Ok(Self { board, look, over, screen })
    }

    /// One more second, with the times of what ended in it (nanoseconds), and the first words of failures of a step.
    pub fn beat<'a>(
        &self,
        second: &Second,
        response: &Histogram<u64>,
        service: &Histogram<u64>,
        examples: impl Iterator<Item = (Failure, &'a str)>,
    ) {
        let mut board = lock(&self.board);
        board.beat(second, response, service);
        for (kind, text) in examples {
            board.examples.entry(kind).or_insert_with(|| text.to_owned());
        }
        if let Look::Lines(every) = self.look
            && (second.at + 1).is_multiple_of(every.max(1))
        {
            // Nobody may be reading any more; the run goes on all the same.
            let _ = writeln!(io::stderr(), "{}", board.line());
        }
    }

    /// Gives the terminal back.
    pub fn end(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(screen) = self.screen.take() {
            let _ = screen.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

/// A panic elsewhere leaves the board whole enough to be drawn.
fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
