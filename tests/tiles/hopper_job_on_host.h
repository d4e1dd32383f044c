// A job in a file and its result in another one: see host_program.py.

// At a multiple of 16, as the copy engine asks for.
struct Part {
    std::vector<uint4> memory;
    i64 bytes = 0;
    u8 *data() { return (u8 *)memory.data(); }
};

// Reads a job's numbers, and its parts behind their sizes.
template <class Job, size_t Count> static void read_job(const char *path, Job &job, Part (&parts)[Count]) {
    FILE *file = fopen(path, "rb");
    i64 sizes[Count];
    if (!file || fread(&job, sizeof job, 1, file) != 1 || fread(sizes, sizeof sizes, 1, file) != 1)
        fail("no job");
    for (size_t i = 0; i < Count; i++) {
        parts[i].memory.resize(sizes[i] / 16 + 1);
        parts[i].bytes = sizes[i];
        if (sizes[i] && fread(parts[i].data(), 1, sizes[i], file) != (size_t)sizes[i])
            fail("the job is cut short");
    }
    fclose(file);
}

static void write_result(const char *path, std::vector<Part *> parts) {
    FILE *file = fopen(path, "wb");
    for (Part *part : parts)
        if (!file || fwrite(part->data(), 1, part->bytes, file) != (size_t)part->bytes) fail("no result");
    fclose(file);
}
