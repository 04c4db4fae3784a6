# The images of `make images`, for those who build with Docker: the same files in
# the same places, from the same list.
#   docker build --target node -t tortie/node:dev .     (also kube-controllers, etcd)
FROM golang:1.26-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nftables && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make image-programs VERSION=$VERSION && \
    go run ./manifests/images -bin bin -unpack /images -version $VERSION -created 0

FROM scratch AS kube-controllers
COPY --from=build /images/kube-controllers /
USER 65532:65532
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/kube-controllers"]

FROM scratch AS etcd
COPY --from=build /images/etcd /
USER 0:0
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/local/bin/etcd"]

FROM scratch AS node
COPY --from=build /images/node /
USER 0:0
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/felix"]
