//! What the process itself uses, under the names that every Prometheus client library gives it.
//!
//! Ours rather than the `prometheus` crate's, whose CPU counter only knows whole seconds, and which brings a second
//! `rustix` along.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};

/// Reads `/proc/self` at each collection. What can't be read keeps its last value.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start: Gauge,
}

impl Process {
    /// The process that calls it.
    pub fn new() -> Self {
        fn valid<M>(metric: prometheus::Result<M>) -> M {
            metric.expect("names of our own families are valid")
        }
        let gauge = |name, help| valid(IntGauge::new(name, help));
        Self {
            cpu: valid(Counter::new("process_cpu_seconds_total", "User and system CPU time spent, in seconds.")),
            resident: gauge("process_resident_memory_bytes", "Resident memory, in bytes."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory, in bytes."),
            open_fds: gauge("process_open_fds", "Open file descriptors."),
            max_fds: gauge("process_max_fds", "File descriptors that may be open at once."),
            threads: gauge("process_threads", "Threads of the operating system in this process."),
            start: valid(Gauge::new("process_start_time_seconds", "Unix time at which the process started.")),
        }
    }

    fn all(&self) -> [&dyn Collector; 7] {
        let Self { cpu, resident, virtual_memory, open_fds, max_fds, threads, start } = self;
        [cpu, resident, virtual_memory, open_fds, max_fds, threads, start]
    }

    fn read(&self) {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            self.cpu.reset();
            self.cpu.inc_by(stat.cpu_ticks as f64 / ticks);
            self.resident.set(stat.resident_pages.saturating_mul(rustix::param::page_size() as i64));
            self.virtual_memory.set(stat.virtual_bytes);
            self.threads.set(stat.threads);
            if let Some(boot) = boot_time() {
                self.start.set(boot + stat.start_ticks as f64 / ticks);
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(entries.count() as i64 - 1); // One of them reads this folder.
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            self.max_fds.set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

/// What we want of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: i64,
    start_ticks: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name may hold spaces and parentheses; after the last one, fields count from the third.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let at = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let signed = |number| at(number).and_then(|value| i64::try_from(value).ok());
        Some(Self {
            cpu_ticks: at(14)? + at(15)?,
            threads: signed(20)?,
            start_ticks: at(22)?,
            virtual_bytes: signed(23)?,
            resident_pages: signed(24)?,
        })
    }
}

/// When the machine started, in Unix time.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_spaces_and_parentheses_does_not_shift_fields() {
        let text =
            "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 5 0 777 1048576 256 18446744073709551615";

        let stat = Stat::parse(text);

        let expected =
            Stat { cpu_ticks: 46, threads: 5, start_ticks: 777, virtual_bytes: 1_048_576, resident_pages: 256 };
        assert_eq!(stat, Some(expected));
    }

    #[test]
    fn this_process_has_memory_threads_and_a_start_in_the_past() {
        let process = Process::new();

        process.read();

        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.resident.get() > 1 << 20, "{}", process.resident.get());
        assert!(process.threads.get() >= 1);
        assert!(process.open_fds.get() >= 3);
        assert!(process.start.get() > 1e9 && process.start.get() <= now + 1.0, "{} {now}", process.start.get());
    }
}
