// busy: threads come and go, pass messages, sleep and compute, check every result, and end with "well: true" and
// status 0 once stdin is closed.
use std::{
    collections::HashMap,
    io::Read,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::*},
        mpsc, Arc,
    },
    thread,
    time::{Duration, Instant},
};
fn main() {
    let stop = Arc::new(AtomicBool::new(false));
    let n = Arc::new(AtomicU64::new(0));
    let mut hs = vec![];
    for i in 0..8u64 {
        let stop = stop.clone();
        let n = n.clone();
        hs.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                let mut m = HashMap::new();
                for k in 0..200u64 {
                    m.insert(k, vec![k as u8; 64]);
                }
                for k in 0..200u64 {
                    assert_eq!(m[&k][63], k as u8);
                }
                let (tx, rx) = mpsc::channel();
                let t = thread::spawn(move || {
                    for k in 0..50 {
                        tx.send(k * i).unwrap();
                    }
                });
                let s: u64 = rx.iter().sum();
                t.join().unwrap();
                assert_eq!(s, 1225 * i);
                let b = Instant::now();
                thread::sleep(Duration::from_micros(300));
                assert!(b.elapsed() >= Duration::from_micros(300));
                let (tx, rx) = mpsc::channel::<u8>();
                assert!(rx.recv_timeout(Duration::from_millis(1)).is_err());
                drop(tx);
                let f: f64 = (0..1000).map(|x| (x as f64).sqrt()).sum();
                assert!((f - 21065.833110879048).abs() < 1e-6);
                n.fetch_add(1, Relaxed);
            }
        }));
    }
    println!("ready");
    let mut b = [0u8; 1];
    let _ = std::io::stdin().read(&mut b);
    stop.store(true, Relaxed);
    for h in hs {
        h.join().unwrap();
    }
    println!("well: {}", n.load(Relaxed) > 0);
}
