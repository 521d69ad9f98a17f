//! The Rust program of the study: `work a` trains, `work b` does other things of the same kind.
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::Duration;

fn serve(answer: usize, clients: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || {
        for stream in listener.incoming().take(clients) {
            let mut stream = stream.unwrap();
            let mut request = [0u8; 64];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&vec![b'x'; answer]);
        }
    });
    for _ in 0..clients {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"hello")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
    }
    server.join().unwrap();
    Ok(())
}

fn first() -> std::io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    for name in ["a.txt", "b.txt", "numbers.txt"] {
        let sender = sender.clone();
        thread::spawn(move || sender.send(fs::read_to_string(name).unwrap().lines().count()).unwrap());
    }
    drop(sender);
    println!("{}", receiver.iter().sum::<usize>());
    fs::write("out.txt", "done")?;
    serve(100, 3)
}

fn second() -> std::io::Result<()> {
    let counts = Arc::new(Mutex::new(HashMap::new()));
    let file = BufReader::new(fs::File::open("numbers.txt")?);
    let lines: Vec<String> = file.lines().collect::<Result<_, _>>()?;
    let workers: Vec<_> = lines
        .chunks(lines.len() / 7)
        .map(|part| (part.to_vec(), counts.clone()))
        .map(|(part, counts)| {
            thread::spawn(move || {
                for line in part {
                    *counts.lock().unwrap().entry(line.len()).or_insert(0) += 1;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    fs::create_dir_all("made/deeper")?;
    fs::copy("b.txt", "made/b.txt")?;
    fs::rename("made/b.txt", "made/c.txt")?;
    let mut log = fs::OpenOptions::new().append(true).create(true).open("made/log")?;
    for (length, n) in counts.lock().unwrap().iter() {
        writeln!(log, "{length} {n}")?;
    }
    log.sync_all()?;
    for entry in fs::read_dir("made")? {
        entry?.metadata()?;
    }
    fs::remove_dir_all("made")?;
    thread::sleep(Duration::from_millis(5));
    let listener = UdpSocket::bind("127.0.0.1:0")?;
    listener.set_read_timeout(Some(Duration::from_millis(200)))?;
    listener.send_to(b"ping", listener.local_addr()?)?;
    listener.recv_from(&mut [0; 10])?;
    let _ = thread::spawn(|| panic!("on purpose")).join();
    let waste: Vec<Vec<u8>> = (0..300).map(|n| vec![1; n * 5000]).collect();
    eprintln!("{} {:?}", waste.len(), fs::read("missing").err());
    serve(500_000, 12)
}

fn main() {
    let result = match std::env::args().nth(1).as_deref() {
        Some("a") => first(),
        _ => second(),
    };
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
