//! What entering the helper's cage costs: prints the microseconds that it took this process. For `tests/bench/run`.
#![forbid(unsafe_code)]

use std::time::Instant;

use ec2_instance_connect::cage::{self, Needs};
use ec2_instance_connect::config::Anchors;
use ec2_instance_connect::trust::anchors;

fn main() {
    // What an installation without any configuration needs.
    let read = anchors::files(&Anchors::Auto);
    let begun = Instant::now();
    let held = cage::enter(&Needs {
        read: &read,
        ..Needs::default()
    });
    let took = begun.elapsed();
    println!("{} {held}", took.as_micros());
}
