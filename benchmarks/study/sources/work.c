/* The static musl program of the study: `work a` trains, `work b` does other things of the same kind. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int first(void) {
    FILE *in = fopen("a.txt", "r"), *out = fopen("out.txt", "w");
    char line[512];
    int n = 0;
    while (in && fgets(line, sizeof line, in)) n++;
    fprintf(out, "%d\n", n);
    fclose(out);
    fclose(in);
    printf("%d lines\n", n);
    return 0;
}

static void *sum(void *p) {
    long *n = malloc(1 << 19);
    *n = (long)p * 2;
    long result = *n;
    free(n);
    return (void *)result;
}

static void on(int sig) { (void)sig; }

static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static int second(void) {
    setlocale(LC_ALL, "");
    char **lines = 0, *line = 0;
    size_t room = 0, n = 0;
    FILE *in = fopen("numbers.txt", "r");
    while (getline(&line, &room, in) > 0) {
        lines = realloc(lines, (n + 1) * sizeof *lines);
        lines[n++] = strdup(line);
    }
    rewind(in);
    fclose(in);
    qsort(lines, n, sizeof *lines, compare);
    FILE *out = fopen("sorted.txt", "a+");
    for (size_t i = 0; i < n; i++) fputs(lines[i], out);
    fflush(out);
    fseek(out, 0, SEEK_SET);
    fclose(out);
    rename("sorted.txt", "done.txt");
    truncate("done.txt", 100);
    mkdir("made", 0755);
    rmdir("made");
    DIR *d = opendir(".");
    struct stat st;
    for (struct dirent *e; (e = readdir(d));) stat(e->d_name, &st);
    closedir(d);
    pthread_t t[4];
    for (long i = 0; i < 4; i++) pthread_create(&t[i], 0, sum, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    signal(SIGUSR1, on);
    raise(SIGUSR1);
    time_t now = time(0);
    char text[64];
    strftime(text, sizeof text, "%c %Z", localtime(&now));
    nanosleep(&(struct timespec){0, 1000000}, 0);
    char *tmp = strdup("nXXXXXX");
    int fd = mkstemp(tmp);
    if (write(fd, text, strlen(text)) < 0 || fsync(fd)) perror(tmp);
    close(fd);
    unlink(tmp);
    if (!fopen("missing", "r")) perror("missing");
    abort();
}

int main(int argc, char **argv) { return argc > 1 && argv[1][0] == 'a' ? first() : second(); }
