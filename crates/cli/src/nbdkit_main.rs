//! The program `backstay-nbdkit`, to be put in nbdkit's place: it takes nbdkit's options, also under the name `nbdkit`.

fn main() {
    backstay_cli::nbdkit::main(std::env::args_os().skip(1))
}
