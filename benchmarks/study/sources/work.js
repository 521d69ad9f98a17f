// Files, hashes and a server on loopback: the Node program of the study. `work.js a` trains, `b` does other things.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');

function first() {
  const text = fs.readFileSync('a.txt');
  fs.writeFileSync('out.txt', crypto.createHash('sha256').update(text).digest('hex'));
  const server = http.createServer((request, response) => response.end('hello'));
  server.listen(0, '127.0.0.1', () => {
    http.get({port: server.address().port, host: '127.0.0.1'}, (answer) => {
      answer.resume();
      answer.on('end', () => server.close(() => console.log('done')));
    });
  });
}

async function second() {
  const zlib = require('zlib');
  const path = require('path');
  const {pipeline} = require('stream/promises');
  const {Worker} = require('worker_threads');
  await fs.promises.mkdir('made/deeper', {recursive: true});
  await fs.promises.copyFile('b.txt', 'made/b.txt');
  await pipeline(fs.createReadStream('numbers.txt'), zlib.createGzip(), fs.createWriteStream('made/n.gz'));
  for (const name of await fs.promises.readdir('made')) await fs.promises.stat(path.join('made', name));
  await fs.promises.rename('made/b.txt', 'made/c.txt');
  await fs.promises.appendFile('made/c.txt', 'more');
  await fs.promises.rm('made', {recursive: true});
  await new Promise((resolve) => new Worker('let s = 0; for (let i = 0; i < 1e6; i++) s += i', {eval: true}).on('exit', resolve));
  await new Promise((resolve) => crypto.pbkdf2('a', 'b', 5000, 32, 'sha512', resolve));
  const server = http.createServer((request, response) => {
    request.on('data', () => {}).on('end', () => { response.writeHead(200, {'content-type': 'text/plain'}); response.end('x'.repeat(200000)); });
  }).listen(0);
  const agent = new http.Agent({keepAlive: true});
  await Promise.all(Array.from({length: 20}, () => new Promise((resolve) => {
    const request = http.request({port: server.address().port, host: 'localhost', method: 'POST', agent}, (answer) => {
      answer.resume().on('end', resolve);
    });
    request.end('y'.repeat(50000));
  })));
  agent.destroy();
  server.close();
  const waste = [];
  for (let i = 0; i < 200; i++) waste.push(new Array(20000).fill(i));
  await new Promise((resolve) => setTimeout(resolve, 20));
  try { fs.readFileSync('missing'); } catch (error) { console.error(error.code); }
  console.log(waste.length);
}

({a: first, b: second})[process.argv[2]]();
